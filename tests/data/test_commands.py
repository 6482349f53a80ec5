"""Commands: errors and exit codes, locks, signals, full and read-only disks, a closed pipe."""

import errno
import os
import shutil
import signal
import sys
import threading
import time
from unittest import mock

import pytest

from data.cli import UsageError, run
from data.io import lock
from tests.conftest import TREE, contents, data, mounted, read_only, start, wait_for
from tests.data.sources.test_archives import tar

PROGRAM = [sys.executable, "-m", "data"]
H5 = "Can't synchronously write data (file write failed: errno = 28, error message = 'No space')"
OPEN = "Unable to open file (unable to open file: name = '/x/y.h5', errno = 13, flags = 0)"
RECORDS = ("pack.json", "dataset.json", "challenge.json")
PACK = "pack {root} {out} --shard-size 5 --side 16"
SYNTHETIC = "synthetic {out} --size 32 --train 90 --probe 20 --test 20"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("bad\n  input"), "error: bad input"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "error: a/b: No space left"),
        (OSError(errno.EIO, "Input/output error", b"caf\xe9"), r"error: caf\udce9: Input/output"),
        (OSError(errno.EROFS, "Read-only file system"), "error: Read-only file system; a read-"),
        (OSError(H5), "error: No space left on device; free some space"),
        (OSError(OPEN), "error: /x/y.h5: Permission denied; give a place"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(error, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(mock.Mock(side_effect=error))
    lines = capsys.readouterr().err.encode("utf-8", "backslashreplace").decode().splitlines()
    assert exit_.value.code == 2 and len(lines) == 1 and lines[0].startswith(said)


def test_a_lock_whose_file_was_removed_is_taken_on_a_new_one(tmp_path):
    path, seen = tmp_path / ".x.lock", []

    def wait_for_it() -> None:
        with lock(path, wait=True, remove=True):
            seen.append(path.exists())
            with pytest.raises(UsageError, match="another process holds this lock"), lock(path):
                pass

    waiting = threading.Thread(target=wait_for_it)
    with lock(path, remove=True):
        waiting.start()
        time.sleep(0.1)
    waiting.join()
    assert seen == [True] and not path.exists()


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (PACK, signal.SIGINT, 130),
        (PACK, signal.SIGTERM, 0),
        (PACK, signal.SIGKILL, -9),
        (SYNTHETIC, signal.SIGKILL, -9),
        ("challenge {root} {cache} {out}", signal.SIGUSR1, 0),
    ],
)
def test_an_interrupted_command_continues(images, truth_cache, tmp_path, command, number, code):
    def arguments(out: str, workers: int) -> list[str]:
        filled = command.format(root=images / "train", cache=truth_cache, out=tmp_path / out)
        return f"{filled} --workers {workers}".split()

    process = start([*PROGRAM, *arguments("x", 2)])
    wait_for(lambda: len(list((tmp_path / "x").rglob("*.*"))) >= 5, process)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (0, code) and "Traceback" not in said
    if not any((tmp_path / "x" / name).exists() for name in RECORDS):  # or it was through
        assert process.returncode == code
        assert code < 0 or "stopped; the same command continues" in said
    for out in ("x", "y"):
        assert data(*arguments(out, 1)).returncode == 0
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


@pytest.mark.parametrize(
    ("disk", "said"), [("size=200k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_disk_that_takes_nothing_is_one_line(images, truth_cache, tmp_path, disk, said):
    place = tmp_path / "disk"
    place.mkdir()
    mounts = f"mount -t tmpfs -o {disk} none {place}; dd if=/dev/zero of={place}/fill bs=1k || true"
    for command in (
        f"pack {images}/train {place}/out --workers 1",
        f"list {images}/train --out {place}/list.txt",
        f"synthetic {place}/set --train 30 --workers 1",
        f"challenge {images}/train {truth_cache} {place}/set --limit 1 --workers 1",
    ):
        script = f'"$@"; code=$?; find {place} -name "*[0-9].tmp"; exit $code'
        done = mounted(["bash", "-c", script, "bash", *PROGRAM, *command.split()], mounts)
        error = done.stderr.split("\r")[-1].splitlines()[-1]
        assert done.returncode == 2 and not done.stdout
        assert error.startswith(f"error: {place}/") and said in error, error


def test_a_read_only_disk_can_be_read(images, truth_cache, tmp_path):
    shutil.copytree(truth_cache, tmp_path / "cache", ignore=shutil.ignore_patterns(".lock"))
    tar(images / "train", tmp_path / "x.tar")
    data("pack", images / "train", tmp_path / "pack")
    more = {"PYTHONPATH": str(TREE), "XDG_CACHE_HOME": str(tmp_path)}
    for command, code, said in (
        ("info cache", 0, ""),
        ("verify cache", 0, ""),
        (f"pack {images}/train pack", 0, ""),
        (f"pack {images}/train pack --side 7", 2, "other settings"),
        (f"pack {images}/train new", 2, "new: Read-only file system"),
        ("clean cache", 2, "Read-only file system"),
        ("list x.tar", 0, "index cannot be kept"),
    ):
        done = read_only(tmp_path, *PROGRAM, *command.split(), **more)
        assert done.returncode == code and said in done.stderr, done.stderr


def test_without_worker_processes_one_computes(images, tmp_path):
    pack = ["pack", images / "train", tmp_path / "pack", "--workers", "2"]
    done = mounted([*PROGRAM, *pack], "mount -t tmpfs -o ro none /dev/shm")
    assert done.returncode == 0 and "80 of 80 images packed" in done.stdout, done.stderr
    assert "note: /dev/shm is read-only or full" in done.stderr and "Warning" not in done.stderr


@pytest.mark.parametrize("command", ["info {cache}", "pack {root} {out} --workers 1"])
def test_a_closed_pipe_is_one_line(images, truth_cache, tmp_path, command):
    """As `| head -0`: nobody reads the first line."""
    out, (read, write) = tmp_path / "pack", os.pipe()
    os.close(read)
    filled = command.format(root=images / "train", cache=truth_cache, out=out)
    process = start([*PROGRAM, *filled.split()], stdout=write)
    os.close(write)
    errors = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert errors.count("error: standard output: closed before") == errors.count("error") == 1
    assert (out / "pack.json").exists() == ("pack" in command)
