"""Faults that are real: signals, dead workers, a full and a read-only disk, flipped bits, a second
process."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache, verify
from data.cache.shard import STATUS
from data.sources.images import open_images
from preprocess import commit, engine
from preprocess.build import build
from preprocess.recipe import Recipe, compute_block

TREE = Path(__file__).parents[2]
CENTRE = Recipe("spectral", (), 32)


def command(root, folder, *options) -> list[str]:
    return [
        sys.executable,
        "-m",
        "preprocess",
        str(root),
        str(folder),
        "--estimator",
        "spectral",
        "--side",
        "32",
        "--shard-size",
        "20",
        "--workers",
        "1",
        *options,
    ]


def call(root, folder, *options) -> subprocess.CompletedProcess:
    return subprocess.run(command(root, folder, *options), capture_output=True, text=True, cwd=TREE)


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if not p.name.startswith((".", "log."))
    }


@pytest.fixture(scope="module")
def whole(images) -> Path:
    build(str(images / "train"), str(images / "cache-whole"), CENTRE, shard_size=20)
    return images / "cache-whole"


@pytest.fixture
def cache(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "cache"))


def wait_for(found, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not found() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(images, whole, tmp_path, number, code):
    folder = tmp_path / "cache"
    process = subprocess.Popen(
        command(images / "train", folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TREE,
        start_new_session=True,
    )
    wait_for(lambda: (folder / "log.jsonl").exists(), process)
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == code
    assert "the same command continues" in errors and "Traceback" not in errors, errors
    assert not list(folder.rglob("*.tmp"))
    for shard in folder.glob("shard-*.h5"):
        assert shard.read_bytes() == (whole / shard.name).read_bytes()
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["event"] == "stopped"
    assert call(images / "train", folder).returncode == 0
    assert content(folder) == content(whole)


@pytest.mark.slow
def test_sigkill_at_20_random_moments(images, tmp_path):
    """Each run is killed at a random moment of its whole length and continued, at least 20 times,
    until it is whole."""
    root = tmp_path / "many"
    for copy in range(12):
        shutil.copytree(images / "train", root / f"{copy:02d}")
    expected, folder = tmp_path / "expected", tmp_path / "cache"
    start = time.monotonic()
    assert call(root, expected).returncode == 0
    seconds = time.monotonic() - start
    rng, kills = np.random.default_rng(0), 0
    while kills < 20:
        process = subprocess.Popen(
            command(root, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=TREE,
            start_new_session=True,
        )
        time.sleep(rng.uniform(0.3 * seconds, seconds))
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for shard in folder.glob("shard-*.h5"):  # whatever has a final name is whole
            assert shard.read_bytes() == (expected / shard.name).read_bytes()
        if (folder / "cache.json").exists() and json.loads((folder / "cache.json").read_text())[
            "complete"
        ]:
            assert len(Cache(folder)) == 960
            shutil.rmtree(folder)  # whole too soon: the other kills are for another run
    assert call(root, folder).returncode == 0
    assert content(folder) == content(expected)


@pytest.fixture
def deadly(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(70):
        side = 13 if i == 66 else 16
        cv2.imwrite(
            str(root / f"{i:03d}.png"),
            np.random.default_rng(i).integers(0, 255, (side, side, 3), np.uint8),
        )
    return root


def run_deadly(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TREE / "tests" / "preprocess" / "deadly.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_an_image_that_kills_its_worker_is_found_and_the_rest_goes_on(deadly, tmp_path):
    done = run_deadly(deadly, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "a worker died" in done.stderr and "crashed: 066.png" in done.stderr
    cache = Cache(tmp_path / "cache")
    assert np.flatnonzero(cache.status).tolist() == [66] and cache.status[66] == STATUS["crashed"]
    assert not cache.mask(66).any() and cache.mask(65).any() and cache.mask(67).any()
    assert (tmp_path / "cache" / "failures.tsv").read_text() == "crashed\t066.png\n"


def test_a_worker_killed_once_changes_no_byte(deadly, tmp_path):
    once = run_deadly(deadly, tmp_path / "cache", "once", tmp_path / "flag")
    assert once.returncode == 0 and "a worker died" in once.stderr and "crashed" not in once.stderr
    assert run_deadly(deadly, tmp_path / "again", "once", tmp_path / "flag").returncode == 0
    assert content(tmp_path / "cache") == content(tmp_path / "again")


@pytest.mark.parametrize("bad", [{0}, {63}, {5, 6, 40}, set()])
def test_the_images_that_crash_are_found_by_halving(deadly, monkeypatch, bad):
    images = open_images(deadly).take(slice(64))
    paths = {images.paths[i] for i in bad}
    calls, found = [], []

    def alone(part, recipe):
        calls.append(len(part))
        return None if paths & set(part.paths.tolist()) else compute_block(part, recipe)

    monkeypatch.setattr(engine, "_in_own_process", alone)
    rows = engine.compute_alone(
        images, CENTRE, lambda what, path: found.append((what, path.encode()))
    )
    assert np.array_equal(rows["path"], images.paths)
    assert set(np.flatnonzero(rows["status"]).tolist()) == bad and rows["digest"].any(1).all()
    assert found == [("crashed", path) for path in sorted(paths)] and len(calls) <= 1 + 2 * 6 * max(
        1, len(bad)
    )


def test_workers_end_when_their_driver_is_killed(images, tmp_path):
    root = tmp_path / "many"
    for copy in range(10):
        shutil.copytree(images / "train", root / f"{copy:02d}")
    process = subprocess.Popen(
        command(root, tmp_path / "cache"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=TREE,
    )
    wait_for(lambda: list((tmp_path / "cache").glob("shard-*.h5")), process)
    children = [
        int(pid)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children and not any(_runs(pid) for pid in children)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def mounted(place: Path, *options: str):
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def one_line(done: subprocess.CompletedProcess) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def test_no_space_left(images, whole, tmp_path):
    with mounted(
        tmp_path / "small", "-o", "size=140k"
    ) as small:  # room for one shard, on another file system
        folder = small / "cache"
        error = one_line(call(images / "train", folder))
        assert "No space left on device" in error and "the same command continues" in error
        assert not list(folder.rglob("*.tmp"))
        for shard in folder.glob("shard-*.h5"):
            assert shard.read_bytes() == (whole / shard.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert call(images / "train", folder).returncode == 0
        assert content(folder) == content(whole)


@pytest.mark.parametrize("step", ["write_checksums", "write_index", "write_text", "write_shard"])
def test_no_space_at_any_file(images, whole, tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(commit.shards if step == "write_checksums" else commit, step, full)
        with pytest.raises(OSError, match="No space"):
            build(str(images / "train"), str(folder), CENTRE, shard_size=20)
    assert not list(folder.rglob("*.tmp"))
    build(str(images / "train"), str(folder), CENTRE, shard_size=20)
    assert content(folder) == content(whole)


def test_a_read_only_folder(images, tmp_path):
    with mounted(tmp_path / "fixed", "-o", "size=1m") as fixed:
        subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
        assert "Read-only file system" in one_line(call(images / "train", fixed / "cache"))


def test_a_finished_cache_on_a_read_only_disk_is_read(whole, tmp_path):
    with mounted(tmp_path / "fixed", "-o", "size=8m") as fixed:
        shutil.copytree(whole, fixed / "cache")
        (fixed / "cache" / "index.h5").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
        assert np.array_equal(Cache(fixed / "cache").mask(79), Cache(whole).mask(79))


def test_50_flipped_bits_are_all_found_and_repaired(images, whole, cache):
    rng = np.random.default_rng(0)
    shard = cache / "shard-00001.h5"
    sound = shard.read_bytes()
    for place in [0, 9, 700, *rng.integers(0, len(sound), 47).tolist()]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(damaged)
        assert [name for name, problem in verify(cache) if problem] == ["shard-00001.h5"], place
    shard.write_bytes(sound)
    assert not any(problem for _, problem in verify(cache))
    shard.write_bytes(damaged)
    (cache / "shard-00003.h5").write_bytes(b"cut")
    outcome = build(str(images / "train"), str(cache), CENTRE, shard_size=20, repair=True)
    assert outcome.computed == 40  # exactly these two
    assert content(cache) == content(whole)


def test_a_damaged_index_or_description_is_noticed(images, whole, cache):
    index = bytearray((cache / "index.h5").read_bytes())
    rng = np.random.default_rng(1)
    expected = Cache(whole)
    for place in rng.integers(0, len(index), 50).tolist():
        flipped = index.copy()
        flipped[place] ^= 1 << int(rng.integers(8))
        (cache / "index.h5").write_bytes(flipped)
        reader = Cache(cache)  # made anew where the flip matters
        assert np.array_equal(reader.paths, expected.paths) and np.array_equal(
            reader.mask(33), expected.mask(33)
        )
    (cache / "cache.json").write_text(
        (cache / "cache.json").read_text().replace("spectral", "spectrum")
    )
    error = one_line(call(images / "train", cache))
    assert "cache.json: damaged" in error
    assert call(images / "train", cache, "--repair").returncode == 0
    assert content(cache) == content(whole)


def test_repair_says_what_was_wrong_and_verify_agrees(images, whole, cache):
    (cache / "shard-00002.h5").unlink()
    check = [sys.executable, "-m", "data", "verify", str(cache)]
    done = subprocess.run(check, capture_output=True, text=True, cwd=TREE)
    assert (
        done.returncode == 1
        and "shard-00002.h5: missing" in done.stderr
        and "--repair" in done.stderr
    )
    assert call(images / "train", cache, "--repair").returncode == 0
    assert subprocess.run(check, capture_output=True, cwd=TREE).returncode == 0
    assert content(cache) == content(whole)
    log = [json.loads(line) for line in (cache / "log.jsonl").read_text().splitlines()]
    assert log[-3]["damaged"] == {"shard-00002.h5": "missing"}


def test_a_second_process_says_so(images, whole, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    with commit.lock(folder, None):
        assert "another process is writing this cache" in one_line(call(images / "train", folder))
        assert "another process is writing this cache" in one_line(
            call(images / "train", folder, "--part", "1/2")
        )
    with commit.lock(folder, (1, 2)):
        assert "another process is computing part 1/2" in one_line(
            call(images / "train", folder, "--part", "1/2")
        )
    assert call(images / "train", folder).returncode == 0
    assert content(folder) == content(whole)
