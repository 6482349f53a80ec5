"""Beyond one process: parts in any order, and a Dask cluster that loses a worker, make the same
bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.cache.reader import Cache
from data.cli import UsageError
from preprocess import commit
from preprocess.build import build
from preprocess.recipe import Recipe

TREE = Path(__file__).parents[2]
CENTRE = Recipe("spectral", (), 32)


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if not p.name.startswith((".", "log."))
    }


def run(root, folder, **options):
    return build(str(root), str(folder), CENTRE, shard_size=10, **options)


@pytest.fixture(scope="module")
def whole(images) -> Path:
    run(images / "train", images / "cache-parts")
    return images / "cache-parts"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_are_one_run(images, whole, tmp_path, order):
    folder = tmp_path / "cache"
    outcomes = [run(images / "train", folder, part=(part, 3)) for part in order]
    assert [o.complete for o in outcomes] == [False, False, True]
    assert sorted(o.computed for o in outcomes) == [20, 30, 30]
    assert content(folder) == content(whole)
    assert run(images / "train", folder, part=(2, 3)).computed == 0


def test_parts_at_the_same_time_and_more_parts_than_shards(images, whole, tmp_path):
    folder = tmp_path / "cache"
    jobs = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "preprocess",
                images / "train",
                folder,
                "--estimator",
                "spectral",
                "--side",
                "32",
                "--shard-size",
                "10",
                "--workers",
                "0",
                "--part",
                f"{part}/9",
            ],
            cwd=TREE,
            stderr=subprocess.PIPE,
        )
        for part in (9, 1, 2, 3)
    ]
    assert [job.wait(120) for job in jobs] == [0] * 4, [job.stderr.read() for job in jobs]
    for job in jobs:
        job.stderr.close()
    for part in (4, 5, 6, 7, 8):
        assert (folder / "CHECKSUMS").exists() is False
        run(images / "train", folder, part=(part, 9))
    assert content(folder) == content(whole)


def test_a_part_killed_and_run_again(images, whole, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    run(images / "train", folder, part=(2, 2))
    with monkeypatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(commit, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(images / "train", folder, part=(1, 2))
    assert run(images / "train", folder, part=(1, 2)).computed == 0
    assert content(folder) == content(whole)


def test_parts_bring_a_changed_input_up_to_date_together(images, tmp_path):
    root, folder = Path(shutil.copytree(images / "train", tmp_path / "train")), tmp_path / "cache"
    run(root, folder)
    shutil.copy(root / "class0" / "000.png", root / "class0" / "000b.png")
    before = Cache(folder)
    first = run(root, folder, part=(2, 2))
    assert (first.computed, first.complete) == (0, False) and len(
        Cache(folder)
    ) == 80  # the old one until the last
    last = run(root, folder, part=(1, 2))
    assert last.complete and len(Cache(folder)) == 81 and first.copied + last.copied == 80
    assert before.mask(70).any()
    again = tmp_path / "again"
    run(root, again)
    assert [Cache(folder).mask(i).tobytes() for i in range(81)] == [
        Cache(again).mask(i).tobytes() for i in range(81)
    ]


def test_parts_on_different_lists_are_refused(images, tmp_path):
    root, folder = Path(shutil.copytree(images / "train", tmp_path / "train")), tmp_path / "cache"
    run(root, folder, part=(1, 2))
    (root / "class0" / "000.png").unlink()
    with pytest.raises(UsageError, match="other parts of this cache were begun on another list"):
        run(root, folder, part=(2, 2))


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1/0", "-1/2"])
def test_bad_parts(images, tmp_path, part):
    done = subprocess.run(
        [sys.executable, "-m", "preprocess", images / "train", tmp_path / "c", f"--part={part}"],
        cwd=TREE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "must be I/N" in done.stderr


@pytest.fixture
def cluster(tmp_path):
    """Address of a scheduler with two worker processes on loopback, and the workers."""
    pytest.importorskip("distributed")
    environment = {
        **os.environ,
        "PYTHONPATH": str(TREE),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3",
    }
    log = open(tmp_path / "scheduler.txt", "w")  # noqa: SIM115
    start = {"env": environment, "stdout": log, "stderr": log, "cwd": tmp_path}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], **start
    )
    found, deadline = None, time.monotonic() + 60
    while found is None and time.monotonic() < deadline:
        time.sleep(0.1)
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", (tmp_path / "scheduler.txt").read_text())
    workers = [
        subprocess.Popen(
            [
                *dask,
                "worker",
                found[1],
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--host",
                "127.0.0.1",
            ],
            **start,
        )
        for _ in range(2)
    ]
    while (tmp_path / "scheduler.txt").read_text().count(
        "Register worker"
    ) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        yield found[1], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
        log.close()


def test_dask_with_a_worker_killed_in_the_middle_makes_the_same_bytes(images, tmp_path, cluster):
    address, workers = cluster
    root = tmp_path / "many"
    for copy in range(15):
        shutil.copytree(images / "train", root / f"{copy:02d}")
    command = [
        sys.executable,
        "-m",
        "preprocess",
        root,
        tmp_path / "cache",
        "--estimator",
        "spectral",
        "--side",
        "32",
        "--shard-size",
        "100",
        "--dask",
        address,
    ]
    process = subprocess.Popen(
        command, cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("shard-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.005)
    in_time = process.poll() is None
    workers[0].send_signal(signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert in_time and "1200 of 1200 masks computed" in output
    build(str(root), str(tmp_path / "alone"), CENTRE, shard_size=100)
    assert content(tmp_path / "cache") == content(tmp_path / "alone")


def test_no_scheduler_is_one_line(images, tmp_path):
    pytest.importorskip("distributed")
    from preprocess import engine

    with (
        pytest.raises(UsageError, match="no scheduler answers there"),
        engine._backend(1, "tcp://127.0.0.1:9", patience="0.5s"),
    ):
        pass
