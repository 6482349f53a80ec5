"""Faults that are real: signals, dead workers, a full and a read-only disk, flipped bits, a second
process."""

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

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cache.verify import LOCK
from data.checksums import problems
from data.io import lock
from preprocess import writer
from tests.preprocess.runs import (
    TREE,
    call,
    command,
    content,
    data,
    inline,
    one_line,
    run,
    shard,
    wait_for,
)

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": TREE}


def assert_whole_shards(folder: Path, whole: Path) -> None:
    """Whatever has a final name is whole, and nothing has another."""
    for file in folder.glob("shard-*.h5"):
        assert file.read_bytes() == (whole / file.name).read_bytes()


def copies(images: Path, root: Path, count: int) -> Path:
    for copy in range(count):
        shutil.copytree(images / "train", root / f"{copy:02d}")
    return root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_run_cleanly_and_says_how_to_go_on(images, whole, tmp_path, number):
    folder = tmp_path / "cache"
    start = {"text": True, "cwd": TREE, "start_new_session": True}
    process = subprocess.Popen(command(images / "train", folder), stderr=subprocess.PIPE, **start)
    wait_for(lambda: (folder / "log.jsonl").exists(), process)
    os.killpg(process.pid, number)  # as a terminal does: the workers get it too
    _, errors = process.communicate(timeout=60)
    if "stopped" not in errors and process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == (130 if number == signal.SIGINT else 0)
    assert "the same command continues" in errors and "Traceback" not in errors, errors
    assert not list(folder.rglob("*.tmp"))
    assert_whole_shards(folder, whole)
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["event"] == "stopped"
    assert call(images / "train", folder).returncode == 0
    assert content(folder) == content(whole)


@pytest.mark.slow
def test_sigkill_at_20_random_moments(images, tmp_path):
    """Each run is killed at a random moment of its whole length and continued, at least 20 times,
    until it is whole."""
    root = copies(images, tmp_path / "many", 12)
    expected, folder = tmp_path / "expected", tmp_path / "cache"
    start = time.monotonic()
    assert call(root, expected).returncode == 0
    seconds = time.monotonic() - start
    rng, kills = np.random.default_rng(0), 0
    while kills < 20:
        process = subprocess.Popen(command(root, folder), start_new_session=True, **QUIET)
        time.sleep(rng.uniform(0.3 * seconds, seconds))
        if process.poll() is None:
            kills += 1
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert_whole_shards(folder, expected)
        if (folder / "cache.json").exists():
            assert len(Cache(folder)) == 960
            shutil.rmtree(folder)  # whole too soon: the other kills are for another run
    assert call(root, folder).returncode == 0
    assert content(folder) == content(expected)


@pytest.fixture
def deadly(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(66):
        side = 13 if i == 65 else 16
        pixels = np.random.default_rng(i).integers(0, 255, (side, side, 3), np.uint8)
        cv2.imwrite(str(root / f"{i:03d}.png"), pixels)
    return root


def run_deadly(*arguments: Path) -> str:
    """What it prints as errors."""
    command = [sys.executable, "-m", "tests.preprocess.deadly", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TREE)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_images_that_kill_their_worker_are_found_and_the_rest_goes_on(deadly, tmp_path):
    errors = run_deadly(deadly, tmp_path / "cache")
    assert "a worker died" in errors
    assert errors.count("crashed: ") == 1 and "crashed: 065.png" in errors
    cache = Cache(tmp_path / "cache")
    assert cache.status.tolist() == [0] * 65 + [STATUS["crashed"]]
    assert cache.column("digest").any(1).all()
    assert [cache.mask(i).any() for i in range(66)] == [True] * 65 + [False]
    failures = (tmp_path / "cache" / "failures.tsv").read_text()
    assert failures == "crashed\t065.png\n"


def test_a_worker_killed_once_changes_no_byte(deadly, tmp_path):
    errors = run_deadly(deadly, tmp_path / "cache", tmp_path / "flag")
    assert "a worker died" in errors and "crashed" not in errors
    run_deadly(deadly, tmp_path / "again", tmp_path / "flag")
    assert content(tmp_path / "cache") == content(tmp_path / "again")


def test_workers_end_when_their_driver_is_killed(images, tmp_path):
    root = copies(images, tmp_path / "many", 10)
    process = subprocess.Popen(command(root, tmp_path / "cache"), **QUIET)
    wait_for(lambda: list((tmp_path / "cache").glob("shard-*.h5")), process)
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
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
    mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_no_space_left(images, whole, tmp_path):
    with mounted(tmp_path / "small", "-o", "size=140k") as small:  # room for one shard
        folder = small / "cache"
        error = one_line(call(images / "train", folder))
        assert "No space left on device" in error and "the same command continues" in error
        assert not list(folder.rglob("*.tmp"))
        assert_whole_shards(folder, whole)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert call(images / "train", folder).returncode == 0
        assert content(folder) == content(whole)


def test_read_only_disks(images, whole, tmp_path):
    with mounted(tmp_path / "fixed", "-o", "size=8m") as fixed:
        shutil.copytree(whole, fixed / "cache")
        (fixed / "cache" / "index.h5").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(fixed)], check=True)
        assert np.array_equal(Cache(fixed / "cache").mask(79), Cache(whole).mask(79))
        arguments = command(images / "train", fixed / "new")[3:-2]
        assert "Read-only file system" in one_line(inline(*arguments))


def test_50_flipped_bits_are_all_found_and_repaired(images, whole, cache, tmp_path):
    rng = np.random.default_rng(0)
    file, files = shard(cache, 1), Cache(cache).files
    sound = file.read_bytes()
    for place in [0, 9, 700, *rng.integers(0, len(sound), 47).tolist()]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        wrong = [name for name, text in problems(cache, files) if text]
        assert wrong == [file.name], place
    cut, lost = shard(cache, 3), shard(cache, 2)
    cut.write_bytes(cut.read_bytes()[:3000])
    lost.unlink()
    shutil.copytree(cache, tmp_path / "copy")
    assert run(images / "train", tmp_path / "copy").computed == 40  # found without --repair
    done = data("verify", cache)
    assert done.returncode == 1 and "--repair" in done.stderr
    assert "missing" in done.stderr and "damaged since" in done.stderr
    assert run(images / "train", cache, repair=True).computed == 60  # exactly these three
    assert content(cache) == content(whole)
    log = [json.loads(line) for line in (cache / "log.jsonl").read_text().splitlines()]
    assert set(log[-5]["damaged"]) == {file.name, cut.name, lost.name}
    (cache / "CHECKSUMS").unlink()
    assert run(images / "train", cache, repair=True).computed == 0
    assert content(cache) == content(whole)


def test_a_damaged_index_or_description_is_noticed(images, whole, cache):
    index = bytearray((cache / "index.h5").read_bytes())
    rng = np.random.default_rng(1)
    expected = Cache(whole)
    for place in rng.integers(0, len(index), 50).tolist():
        flipped = index.copy()
        flipped[place] ^= 1 << int(rng.integers(8))
        (cache / "index.h5").write_bytes(flipped)
        reader = Cache(cache)  # rebuilt where the flip matters
        assert np.array_equal(reader.paths, expected.paths)
        assert np.array_equal(reader.mask(33), expected.mask(33))
    file = cache / "cache.json"
    file.write_text(file.read_text().replace("spectral", "spectrum"))
    arguments = command(images / "train", cache)[3:-2]
    assert "cache.json: damaged" in one_line(inline(*arguments))
    assert inline(*arguments, "--repair").returncode == 0
    assert content(cache) == content(whole)


def test_a_second_process_is_refused(images, whole, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    arguments = command(images / "train", folder)[3:-2]
    with lock(folder / LOCK):
        busy = "another process is writing this cache"
        assert busy in one_line(inline(*arguments))
        assert busy in one_line(inline(*arguments, "--part", "1/2"))
    with writer.writing(folder, (1, 2)):
        error = one_line(inline(*arguments, "--part", "1/2"))
        assert "another process is computing part 1/2" in error
    assert inline(*arguments).returncode == 0
    assert content(folder) == content(whole)
    with lock(folder / LOCK):
        assert busy in one_line(data("clean", folder))
