"""Surroundings that are not a developer's machine: containers, quotas, file systems without
locks."""

import errno
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.preprocess.runs import TREE, call, command, content, one_line


def test_a_project_that_cannot_be_written_and_no_home(images, tmp_path):
    script = f'mount --bind "{TREE}" "{TREE}" && mount -o remount,ro,bind "{TREE}" && exec "$@"'
    shell = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*shell, "true"], capture_output=True).returncode
    ):
        pytest.skip("no mount can be made here")
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc", "TMPDIR": str(tmp_path)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TREE)}
    module = [
        sys.executable,
        "-c",
        "import train.copy_paste, preprocess.vision.barrier as b; print(b)",
    ]
    done = subprocess.run([*shell, *module], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("dilo-kernels-*"))


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> dict[str, str]:
    """Environment in which a system call fails: FAIL=flock:37 for ENOLCK, FAIL=fsync:122 for
    EDQUOT."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    compiler = ["cc", "-shared", "-fPIC", "-o", library, folder / "shim.c"]
    if not shutil.which("cc") or subprocess.run(compiler, capture_output=True).returncode:
        pytest.skip("no C compiler here")
    return {**os.environ, "LD_PRELOAD": str(library)}


SHIM = """
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static long fails(const char *name, long call, long a, long b) {
    const char *rule = getenv("FAIL");
    size_t length = strlen(name);
    if (rule && !strncmp(rule, name, length) && rule[length] == ':') {
        errno = atoi(rule + length + 1);
        return -1;
    }
    return syscall(call, a, b);
}
int flock(int file, int kind) { return fails("flock", SYS_flock, file, kind); }
int fsync(int file) { return fails("fsync", SYS_fsync, file, 0); }
"""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_note(images, whole, tmp_path, failing, code):
    environment = failing | {"FAIL": f"flock:{code}"}
    for part in ("1/2", "2/2"):
        options = command(images / "train", tmp_path / "cache", "--part", part)
        done = subprocess.run(options, capture_output=True, text=True, cwd=TREE, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("has no locks") == 1
    assert content(tmp_path / "cache") == content(whole)
    clean = [sys.executable, "-m", "data", "clean", tmp_path / "cache"]
    assert subprocess.run(clean, capture_output=True, cwd=TREE, env=environment).returncode == 0


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_a_quota_or_a_failing_disk_is_one_line(images, whole, tmp_path, failing, code):
    options = command(images / "train", tmp_path / "cache")
    environment = failing | {"FAIL": f"fsync:{code}"}
    done = subprocess.run(options, capture_output=True, text=True, cwd=TREE, env=environment)
    assert os.strerror(code) in one_line(done) and "shard-00000" in one_line(done)
    assert not list((tmp_path / "cache").glob("*.tmp"))
    assert call(images / "train", tmp_path / "cache").returncode == 0
    assert content(tmp_path / "cache") == content(whole)


def test_worker_processes_that_cannot_start_are_one_line():
    code = (
        "import os; from data.cli import run; from data.parallel import alone;"
        "os.environ['PYTHONHOME'] = '/nowhere'; run(lambda: alone(len, [1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=TREE)
    assert "worker processes cannot be started" in one_line(done)


@pytest.mark.parametrize(
    ("flat", "message"),
    [(True, "maps lie flat in that folder"), (False, "maps must lie at the images' relative")],
)
def test_no_map_at_all_stops_before_anything_is_written(images, tmp_path, flat, message):
    maps = tmp_path / "maps"
    maps.mkdir()
    for file in (images / "masks").rglob("*.png"):
        shutil.copy(file, maps / (file.name if flat else f"x{file.name}"))
    options = ("--estimator", "files", "--maps", str(maps))
    error = one_line(call(images / "train", tmp_path / "cache", *options))
    assert "no map for any of the 80 images (first: no " in error and message in error
    assert not (tmp_path / "cache").exists()


def test_nothing_usable_is_an_error_with_the_reasons(root, tmp_path):
    for i, file in enumerate(root.rglob("*.png")):
        file.write_bytes(b"" if i % 2 else b"no image")
    for _ in range(2):
        error = one_line(call(root, tmp_path / "cache"))
        assert "none of the 80 masks can be pasted" in error
        assert "40 unreadable" in error and "40 empty" in error


def test_masks_that_are_all_empty_are_an_error(images, root, tmp_path):
    for file in (images / "masks").rglob("*.png"):
        target = tmp_path / "maps" / file.relative_to(images / "masks")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.zeros((9, 9), np.uint8))
    options = ("--estimator", "files", "--maps", str(tmp_path / "maps"))
    done = call(root, tmp_path / "cache", *options)
    assert "none of the 80 masks can be pasted (all are empty)" in one_line(done)
    assert "80 masks are empty" in done.stdout
