"""Containers, quotas, file systems without locks, maps and images of which none can be used."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from tests.conftest import TREE, contents, execute, one_line
from tests.preprocess.runs import call, inline
from tests.train.runs import command_line, config

# $1 the Python installation, $2 the project, $3 a folder for all else; then the command. /root may
# be closed to other users: it is replaced, with the installation alone in it.
STRANGER = """
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
    shutil.copytree(images / "train" / "class0", tmp_path / "images" / "train")

    def stranger(*command: object) -> subprocess.CompletedProcess:
        unshare = ["unshare", "--mount", "sh", "-ec", STRANGER, "sh"]
        return execute([*unshare, sys.base_prefix, TREE, tmp_path, *command])

    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("needs unshare and setpriv")
    python = TREE / ".venv" / "bin" / "python" if (TREE / ".venv").is_dir() else sys.executable
    first = stranger(python, "-c", "import numpy")
    if first.returncode:
        pytest.skip(f"another user cannot run this Python here: {first.stderr[-200:]}")
    options = ("--estimator", "mbd", "--side", "32", "--workers", "1")
    made = stranger(python, "-m", "preprocess", "/mnt/images/train", "/mnt/masks", *options)
    assert made.returncode == 0 and "40 of 40 masks computed" in made.stdout, made.stderr
    settings = config(Path("/mnt/images"), "/mnt/masks", Path("/mnt/run"), epochs=1)
    places = ("HOME=/mnt/tmp", "XDG_CACHE_HOME=/nowhere")  # of which numba takes the second
    done = stranger("env", *places, python, *command_line(settings)[1:])
    assert done.returncode == 0 and (tmp_path / "run" / "backbone.pt").exists(), done.stderr
    for kernel in ("barrier", "colours"):  # of the estimator, of the training
        assert list(tmp_path.glob(f"tmp/dilo-kernels-*/**/{kernel}*.nbi"))


def failing(folder, call, code) -> dict[str, str]:
    (folder / "shim.c").write_text("#include <errno.h>\nint CALL() { errno = CODE; return -1; }\n")
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    define = f"-DCALL={call}", f"-DCODE={code}"
    execute(["cc", "-shared", "-fPIC", *define, "-o", "shim.so", "shim.c"], cwd=folder)
    return {**os.environ, "LD_PRELOAD": str(folder / "shim.so")}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_note(images, whole, tmp_path, code):
    environment = failing(tmp_path, "flock", code)
    for part in ("1/2", "2/2"):
        done = call(images / "train", tmp_path / "cache", "--part", part, env=environment)
        assert done.returncode == 0 and done.stderr.count("has no locks") == 1, done.stderr
    assert contents(tmp_path / "cache") == contents(whole)
    clean = [sys.executable, "-m", "data", "clean", tmp_path / "cache"]
    assert execute(clean, env=environment).returncode == 0


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO])
def test_a_quota_or_a_failing_disk_is_one_line(images, tmp_path, code):
    cache = tmp_path / "cache"
    done = call(images / "train", cache, env=failing(tmp_path, "fsync", code))
    assert os.strerror(code) in one_line(done) and "shard-00000" in one_line(done)
    assert not list(cache.glob("*.tmp")) and not list(cache.glob("shard*"))


def test_no_map_at_all_stops_before_anything_is_written(images, tmp_path):
    for name, message in (("", "maps lie flat"), ("x", "maps must lie at the images' relative")):
        maps = tmp_path / f"maps{name}"
        maps.mkdir()
        for file in (images / "masks").rglob("*.png"):
            shutil.copy(file, maps / (name + file.name))
        options = ("--estimator", "files", "--maps", maps)
        error = one_line(inline(images / "train", tmp_path / "cache", *options))
        assert "no map for any of the 80 images (first: no " in error and message in error
        assert not (tmp_path / "cache").exists()


def png(levels: np.ndarray) -> bytes:
    return cv2.imencode(".png", levels.astype(np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("fill", "said", "why"),
    [
        (b"no image", "", r"\(80 unreadable\); .*are these images\?"),
        (png(np.zeros((9, 9))), "80 masks are empty", r"\(all are empty\); .*objects bright\?"),
        (png(np.eye(9) * 3), "no_map: 80 levels 0 to 3 of 255", r"\(80 no_map\); .*grey levels"),
    ],
)
def test_nothing_usable_is_an_error_every_time(images, root, tmp_path, fill, said, why):
    for file in root.rglob("*.png"):
        file.write_bytes(fill)
    maps = images / "train", tmp_path / "cache", "--estimator", "files", "--maps", root
    for _ in range(2):
        done = inline(*(maps if said else (root, tmp_path / "cache")))
        assert re.search(f"none of the 80 masks can be pasted {why}", one_line(done))
        assert said in done.stdout


def test_images_and_maps_that_come_back_are_taken_by_the_same_command(images, root, tmp_path):
    maps, cache = tmp_path / "maps", tmp_path / "cache"
    shutil.copytree(images / "masks", maps)
    hidden = [maps / "class0" / "000.png", maps / "class1" / "001.png", root / "class0" / "010.png"]
    for file in hidden:
        file.rename(tmp_path / file.name)
    hidden[2].mkdir()  # listed, but no file
    paths = [str(p.relative_to(images / "masks")) for p in (images / "masks").rglob("*.png")]
    (tmp_path / "list.txt").write_text("\n".join(paths))

    def said() -> str:
        options = f"--estimator files --maps {maps} --list {tmp_path}/list.txt --shard-size 99"
        done = inline(root, cache, *options.split())
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = said()
    assert "failed: 1 missing, 2 no_map" in first and "no_map: 2 no map for this image" in first
    hidden[2].rmdir()
    for file in hidden:
        (tmp_path / file.name).rename(file)
    assert "3 of 80 masks computed and 77 copied" in said()
    cv2.imwrite(str(maps / "class1" / "003.png"), np.full((48, 48), 255, np.uint8))
    assert "1 of 80 masks computed and 79 copied" in said()
    assert Cache(cache).mask(41).min() == 255
    assert "nothing to do" in said()
