"""Surroundings that are not a developer's machine: containers, quotas, file systems without
locks, maps and images of which none can be used."""

import errno
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from tests.preprocess.runs import TREE, call, command, content, inline, one_line
from tests.train.runs import command_line, config

# $1 the Python installation, $2 the project, $3 a folder for all else; then the command. /root may
# be closed to other users: it is replaced, with the installation alone in it.
STRANGER = """
set -e
base=$1 tree=$2 place=$3
shift 3
mkdir -p "$place/base" "$place/tree" "$place/tmp"
chmod -R a+rwX "$place"
mount --bind "$base" "$place/base"
mount --bind "$tree" "$place/tree"
mount --rbind "$place" /mnt
mount -t tmpfs -o mode=755 tmpfs /root
mkdir -p "$base" "$tree"
mount --bind /mnt/base "$base"
mount --bind /mnt/tree "$tree"
mount -o remount,ro,bind "$tree"
cd "$tree"
exec setpriv --reuid 12345 --regid 12345 --clear-groups env -i PATH="$PATH" TMPDIR=/mnt/tmp "$@"
"""


def test_an_unknown_user_without_home_and_a_project_that_cannot_be_written(images, tmp_path):
    """Masks by a compiled estimator, then a training on them."""
    shutil.copytree(images / "train" / "class0", tmp_path / "images" / "train")

    def stranger(*command):
        start = ["unshare", "--mount", "sh", "-c", STRANGER, "sh", sys.base_prefix, TREE, tmp_path]
        return subprocess.run([*start, *command], capture_output=True, text=True)

    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("needs unshare and setpriv")
    python = TREE / ".venv" / "bin" / "python" if (TREE / ".venv").is_dir() else sys.executable
    first = stranger(python, "-c", "import numpy")
    if first.returncode:
        pytest.skip(f"another user cannot run this Python here: {first.stderr[-200:]}")
    options = ("--estimator", "mbd", "--side", "32", "--workers", "1")
    made = stranger(python, "-m", "preprocess", "/mnt/images/train", "/mnt/masks", *options)
    assert made.returncode == 0 and "40 of 40 masks computed" in made.stdout, made.stderr
    assert list(tmp_path.glob("tmp/dilo-kernels-12345"))
    place = "/mnt/images", "/mnt/masks", "/mnt/run"
    settings = config(*map(type(TREE), place), epochs=1)
    done = stranger(python, *command_line(settings)[1:])
    assert done.returncode == 0 and (tmp_path / "run" / "backbone.pt").exists(), done.stderr


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
        done = call(images / "train", tmp_path / "cache", "--part", part, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("has no locks") == 1
    assert content(tmp_path / "cache") == content(whole)
    clean = [sys.executable, "-m", "data", "clean", tmp_path / "cache"]
    assert subprocess.run(clean, capture_output=True, cwd=TREE, env=environment).returncode == 0


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_a_quota_or_a_failing_disk_is_one_line(images, tmp_path, failing, code):
    cache = tmp_path / "cache"
    done = call(images / "train", cache, env=failing | {"FAIL": f"fsync:{code}"})
    assert os.strerror(code) in one_line(done) and "shard-00000" in one_line(done)
    assert not list(cache.glob("*.tmp")) and not list(cache.glob("shard*"))


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
    options = ("--estimator", "files", "--maps", maps)
    error = one_line(inline(images / "train", tmp_path / "cache", *options))
    assert "no map for any of the 80 images (first: no " in error and message in error
    assert not (tmp_path / "cache").exists()


def test_nothing_usable_is_an_error_with_the_reasons_every_time(root, tmp_path):
    for i, file in enumerate(root.rglob("*.png")):
        file.write_bytes(b"" if i % 2 else b"no image")
    for _ in range(2):
        error = one_line(inline(*command(root, tmp_path / "cache")[3:-2]))
        assert "none of the 80 masks can be pasted" in error
        assert "40 unreadable" in error and "40 empty" in error and "are these images?" in error


@pytest.mark.parametrize(
    ("levels", "counts", "reason"),
    [
        (np.zeros((9, 9)), "all are empty", "do the maps show the objects bright?"),
        (np.eye(9) * 3, "80 no_map", "are the maps PNG files of grey levels, classes or cut-outs?"),
    ],
)
def test_maps_of_which_none_can_be_used_are_an_error(images, tmp_path, levels, counts, reason):
    for file in (images / "masks").rglob("*.png"):
        target = tmp_path / "maps" / file.relative_to(images / "masks")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), levels.astype(np.uint8))
    options = ("--estimator", "files", "--maps", tmp_path / "maps")
    done = inline(images / "train", tmp_path / "cache", *options)
    assert f"none of the 80 masks can be pasted ({counts}); " in one_line(done)
    assert reason in one_line(done)
    said = "80 masks are empty" if "empty" in counts else "no_map: 80 levels 0 to 3 of 255"
    assert said in done.stdout


def test_images_and_maps_that_come_back_are_taken_by_the_same_command(images, root, tmp_path):
    """At first some maps are missing, and some images cannot be read; then they are there, and one
    map is corrected."""
    maps, cache = tmp_path / "maps", tmp_path / "cache"
    shutil.copytree(images / "masks", maps)
    hidden = [maps / "class0" / "000.png", maps / "class1" / "001.png", root / "class0" / "010.png"]
    contents = [file.read_bytes() for file in hidden]
    for file in hidden:
        file.unlink()
    (root / "class0" / "010.png").mkdir()  # listed, but no file
    paths = sorted(str(p.relative_to(images / "masks")) for p in (images / "masks").rglob("*.png"))
    lines = [f"{path} {i}\r\n" for i, path in enumerate(paths)] + ["\n"]
    (tmp_path / "list.txt").write_text("\ufeff" + "".join(lines))
    options = "--estimator", "files", "--maps", maps, "--list", tmp_path / "list.txt"
    done = inline(root, cache, *options)
    assert done.returncode == 0 and "failed: 1 missing, 2 no_map" in done.stdout, done.stderr
    assert "no_map: 2 no map for this image" in done.stdout
    (root / "class0" / "010.png").rmdir()
    for file, before in zip(hidden, contents, strict=True):
        file.write_bytes(before)
    assert "3 of 80 masks computed and 77 copied" in inline(root, cache, *options).stdout
    cv2.imwrite(str(maps / "class1" / "003.png"), np.full((48, 48), 255, np.uint8))
    assert "1 of 80 masks computed and 79 copied" in inline(root, cache, *options).stdout
    assert Cache(cache).mask(41).min() == 255
    assert "nothing to do" in inline(root, cache, *options).stdout
