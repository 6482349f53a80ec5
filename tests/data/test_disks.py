"""Full and read-only disks, a read-only /dev/shm, a file system without locks, a closed pipe: one
line or a note.

Each command runs in a mount namespace of its own, as root of it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = f"{sys.executable} -m data"


def isolated(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a bash script where what it mounts is gone afterwards."""
    command = ["unshare", "--mount", "bash", "-ec", script]
    names = {"HERE": str(folder), "DATA": DATA} | environment
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | names, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module", autouse=True)
def _may_mount(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mount")
    if not shutil.which("unshare") or isolated("mount -t tmpfs none $HERE", folder).returncode:
        pytest.skip("mounting needs unshare and its rights")


FILL = "dd if=/dev/zero of=$HERE/disk/fill bs=1k 2>/dev/null || true"
FULL = f"mkdir -p $HERE/disk; mount -t tmpfs -o size=200k none $HERE/disk; {FILL}"
READ_ONLY = "mkdir -p $HERE/disk; mount -t tmpfs -o ro none $HERE/disk"
WRITERS = [
    "pack {images}/train $HERE/disk/out --workers 1",
    "list {images}/train --out $HERE/disk/list.txt",
    "synthetic $HERE/disk/set --train 30 --workers 1",
    "challenge {images}/train {cache} $HERE/disk/set --limit 1 --workers 1",
]


@pytest.mark.parametrize(
    ("disk", "said"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")]
)
def test_a_disk_that_takes_nothing_is_one_line(images, truth_cache, tmp_path, disk, said):
    commands = [command.format(images=images, cache=truth_cache) for command in WRITERS]
    calls = [f"$DATA {command} 2> $HERE/error{i}; echo $?" for i, command in enumerate(commands)]
    count = 'find $HERE/disk -name "*[0-9].tmp" | wc -l'
    done = isolated("; ".join([disk, "set +e", *calls, count]), tmp_path)
    assert done.stdout.split() == ["2"] * len(commands) + ["0"]
    for i in range(len(commands)):
        error = (tmp_path / f"error{i}").read_text().split("\r")[-1].splitlines()[-1]
        assert error.startswith(f"error: {tmp_path}/disk/") and said in error, error


def test_a_read_only_cache_can_be_looked_at_and_not_cleaned(truth_cache, tmp_path):
    shutil.copytree(truth_cache, tmp_path / "cache")
    (tmp_path / "cache" / ".lock").unlink(missing_ok=True)
    bound = "mount --bind $HERE/cache $HERE/cache; mount -o remount,ro,bind $HERE/cache"
    calls = [f"$DATA {name} $HERE/cache; echo $?" for name in ("info", "verify", "clean")]
    done = isolated("; ".join([bound, "set +e", *calls]), tmp_path)
    lines = done.stdout.splitlines()
    assert [line for line in lines if len(line) == 1] == ["0", "0", "2"], done.stderr
    assert done.stderr.count("error: ") == 1 and "Read-only file system" in done.stderr


@pytest.mark.parametrize("then", [FILL, "mount -o remount,ro $HERE/disk"])
def test_a_tar_is_read_where_its_index_cannot_be_kept(images, tmp_path, then):
    disk = "mkdir $HERE/disk; mount -t tmpfs -o size=2M none $HERE/disk"
    tar = f"tar cf $HERE/disk/x.tar -C {images}/train ."
    script = f"{disk}; {tar}; {then}; $DATA list $HERE/disk/x.tar; ls $HERE/disk"
    done = isolated(script, tmp_path, XDG_CACHE_HOME=f"{tmp_path}/disk/home")
    assert done.returncode == 0 and "80 images" in done.stdout, done.stderr
    assert "index cannot be kept" in done.stderr and ".tmp" not in done.stdout


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
    script = "; ".join(closed.format(command) for command in commands)
    done = isolated(f"set +e; {script}", tmp_path)
    assert done.returncode == 0 and (tmp_path / "codes").read_text().split() == ["2"] * 5
    errors = (tmp_path / "error").read_text()
    assert errors.count("error: standard output: closed before") == 5 == errors.count("error")
    assert "Traceback" not in errors and (tmp_path / "pack" / "pack.json").exists()
