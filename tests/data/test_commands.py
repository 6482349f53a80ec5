"""Commands: errors and exit codes, locks, signals, full and read-only disks, a closed pipe."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from data.cli import UsageError, run
from data.io import lock
from tests.conftest import read_only
from tests.data.conftest import contents

ROOT = Path(__file__).parents[2]
H5 = "Can't synchronously write data (file write failed: errno = 28, error message = 'No space')"
OPEN = "Unable to open file (unable to open file: name = '/x/y.h5', errno = 13, flags = 0)"


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


RECORDS = ("pack.json", "dataset.json", "challenge.json")
PACK = "pack {root} {out} --shard-size 5 --side 16"
SYNTHETIC = "synthetic {out} --size 32 --train 90 --probe 20 --test 20"


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
def test_an_interrupted_command_continues(
    images, truth_cache, data, tmp_path, command, number, code
):
    def arguments(out: str, workers: int) -> list[str]:
        filled = command.format(root=images / "train", cache=truth_cache, out=tmp_path / out)
        return f"{filled} --workers {workers}".split()

    started = [sys.executable, "-m", "data", *arguments("x", 2)]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(started, **options)
    while process.poll() is None and len(list((tmp_path / "x").rglob("*.*"))) < 5:
        time.sleep(0.002)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (0, code) and "Traceback" not in said
    if not any((tmp_path / "x" / name).exists() for name in RECORDS):  # or it was through
        assert process.returncode == code
        assert code < 0 or "stopped; the same command continues" in said
    assert data(*arguments("x", 1))[0] == data(*arguments("y", 1))[0] == 0
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def isolated(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a bash script, as root of a mount namespace of its own."""
    command = ["unshare", "--mount", "bash", "-ec"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"]).returncode:
        pytest.skip("mounting needs unshare and its rights")
    names = {"HERE": str(folder), "DATA": f"{sys.executable} -m data"} | environment
    options = {"cwd": ROOT, "env": os.environ | names, "capture_output": True, "text": True}
    return subprocess.run([*command, script], **options, timeout=120)


FULL = "size=200k none $HERE/disk; dd if=/dev/zero of=$HERE/disk/fill bs=1k || true"
WRITERS = [
    "pack {images}/train $HERE/disk/out --workers 1",
    "list {images}/train --out $HERE/disk/list.txt",
    "synthetic $HERE/disk/set --train 30 --workers 1",
    "challenge {images}/train {cache} $HERE/disk/set --limit 1 --workers 1",
]


@pytest.mark.parametrize(
    ("disk", "said"),
    [(FULL, "No space left on device"), ("ro none $HERE/disk", "Read-only file system")],
)
def test_a_disk_that_takes_nothing_is_one_line(images, truth_cache, tmp_path, disk, said):
    commands = [command.format(images=images, cache=truth_cache) for command in WRITERS]
    calls = [f"$DATA {command} 2> $HERE/error{i}; echo $?" for i, command in enumerate(commands)]
    mount, count = f"mount -t tmpfs -o {disk}", 'find $HERE/disk -name "*[0-9].tmp" | wc -l'
    done = isolated("; ".join(["mkdir $HERE/disk", mount, "set +e", *calls, count]), tmp_path)
    assert done.stdout.split() == ["2"] * len(commands) + ["0"]
    for i in range(len(commands)):
        error = (tmp_path / f"error{i}").read_text().split("\r")[-1].splitlines()[-1]
        assert error.startswith(f"error: {tmp_path}/disk/") and said in error, error


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("info cache", 0, ""),
        ("verify cache", 0, ""),
        ("clean cache", 2, "Read-only file system"),
        ("list x.tar", 0, "index cannot be kept"),
    ],
)
def test_a_read_only_disk_can_be_read(images, truth_cache, tmp_path, command, code, said):
    shutil.copytree(truth_cache, tmp_path / "cache", ignore=shutil.ignore_patterns(".lock"))
    subprocess.run(["tar", "cf", tmp_path / "x.tar", "-C", images / "train", "."], check=True)
    called = [sys.executable, "-m", "data", *command.split()]
    done = read_only(tmp_path, *called, PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == code and said in done.stderr, done.stderr


def test_without_worker_processes_one_computes(images, tmp_path):
    script = "mount -t tmpfs -o ro none /dev/shm; $DATA pack $IMAGES $HERE/pack --workers 2"
    done = isolated(script, tmp_path, IMAGES=str(images / "train"))
    assert done.returncode == 0 and "80 of 80 images packed" in done.stdout, done.stderr
    assert "note: /dev/shm is read-only or full" in done.stderr and "Warning" not in done.stderr


def test_a_closed_pipe_is_one_line(images, truth_cache, tmp_path):
    """As `| head -0`: nobody reads the first line."""
    commands = [f"info {truth_cache}", f"verify {truth_cache}", f"clean {truth_cache}"]
    commands += [f"list {images}/train", f"pack {images}/train $HERE/pack --workers 1"]
    closed = "{{ sleep 0.1; $DATA {0} 2>> $HERE/error; echo $? >> $HERE/codes; }} | true"
    done = isolated("; ".join(["set +e", *map(closed.format, commands)]), tmp_path)
    assert done.returncode == 0 and (tmp_path / "codes").read_text().split() == ["2"] * 5
    errors = (tmp_path / "error").read_text()
    assert errors.count("error: standard output: closed before") == 5 == errors.count("error")
    assert "Traceback" not in errors and (tmp_path / "pack" / "pack.json").exists()
