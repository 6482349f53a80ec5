"""Beyond one process: parts in any order, and a Dask cluster that loses a worker, make the same
bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from data.cache.reader import Cache
from preprocess import writer
from tests.preprocess.runs import TREE, command, content, masks, run, wait_for


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_are_one_run(images, whole, tmp_path, order):
    folder = tmp_path / "cache"
    outcomes = [run(images / "train", folder, part=(part, 3)) for part in order]
    assert [o.complete for o in outcomes] == [False, False, True]
    assert sorted(o.computed for o in outcomes) == [20, 20, 40]
    assert content(folder) == content(whole)
    assert run(images / "train", folder, part=(2, 3)).computed == 0


def test_parts_at_the_same_time_and_more_parts_than_shards(images, whole, tmp_path):
    folder = tmp_path / "cache"
    jobs = [
        subprocess.Popen(
            [*command(images / "train", folder), "--workers", "0", "--part", f"{part}/9"],
            cwd=TREE,
            stderr=subprocess.DEVNULL,
        )
        for part in (9, 1, 2, 3)
    ]
    assert [job.wait(120) for job in jobs] == [0] * 4
    for part in (4, 5, 6, 7, 8):
        assert run(images / "train", folder, part=(part, 9)).complete == (part > 3)
    assert content(folder) == content(whole)


def test_a_part_killed_and_run_again(images, whole, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    run(images / "train", folder, part=(2, 2))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "commit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(images / "train", folder, part=(1, 2))
    assert run(images / "train", folder, part=(1, 2)).computed == 0
    assert content(folder) == content(whole)


def test_parts_bring_a_changed_input_up_to_date_together(root, tmp_path):
    folder = tmp_path / "cache"
    run(root, folder)
    shutil.copy(root / "class0" / "000.png", root / "class0" / "000b.png")
    before = Cache(folder)
    first = run(root, folder, part=(2, 2))
    assert (first.computed, first.lacking) == (0, 3)
    assert len(Cache(folder)) == 80  # the old one until the last part
    last = run(root, folder, part=(1, 2))
    assert last.complete and len(Cache(folder)) == 81 and first.copied + last.copied == 80
    assert before.mask(70).any()
    run(root, tmp_path / "again")
    assert masks(folder) == masks(tmp_path / "again")


def test_parts_that_saw_different_images_do_not_finish(root, tmp_path):
    folder = tmp_path / "cache"
    run(root, folder, part=(1, 2))
    (root / "class0" / "000.png").unlink()
    assert not run(root, folder, part=(2, 2)).complete
    outcome = run(root, folder, part=(1, 2))
    assert outcome.complete and len(Cache(folder)) == 79


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
    worker = [*dask, "worker", found[1], "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    workers = [subprocess.Popen([*worker, "--host", "127.0.0.1"], **start) for _ in range(2)]
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
    process = subprocess.Popen(
        [*command(root, tmp_path / "cache"), "--dask", address],
        cwd=TREE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list((tmp_path / "cache").glob("shard-*.h5")), process)
    in_time = process.poll() is None
    workers[0].send_signal(signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert in_time and "1200 of 1200 masks computed" in output
    run(root, tmp_path / "alone")
    assert content(tmp_path / "cache") == content(tmp_path / "alone")
