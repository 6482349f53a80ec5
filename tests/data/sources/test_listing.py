"""What a folder holds, without what systems put there; lists as other tools write them."""

import errno
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from data.sources.images import ImageError, list_images, open_images
from data.sources.pack import pack
from tests.conftest import data, execute, one_line, refused
from tests.data.sources.test_archives import tar

OUTSIDE = "line 2: .* is not a path below the image root"


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_list_is_sorted_by_bytes_at_any_depth_follows_links_and_holds_data_alone(tmp_path, capsys):
    root = tmp_path / "root"
    names = ["b/x.JPEG", "a/deep/er/y.png", "a/ünï code.webp", "Z.bmp", "t.TIFF"]
    of_systems = ["._x.jpg", ".ipynb_checkpoints/x.jpg", "@eaDir/x.jpg/M.jpg", ".DS_Store"]
    of_systems += ["__MACOSX/class/x.jpg", "lost+found/x.jpg", ".Trash-1000/files/x.jpg"]
    fill(root, *names, "a/notes.txt", *of_systems, *(f"b/{name}" for name in of_systems))
    fill(tmp_path / "elsewhere", "linked.pgm")
    os.symlink(tmp_path / "elsewhere", root / "c")
    os.symlink(root, root / "loop")  # must not be walked for ever
    os.symlink(root, tmp_path / "elsewhere" / "back")
    expected = sorted([*names, "c/linked.pgm"], key=str.encode)
    assert [p.decode() for p in list_images(root).tolist()] == expected
    assert not capsys.readouterr().err


def test_an_unreadable_folder_is_an_error_that_names_it(tmp_path, monkeypatch):
    def refuse(folder: bytes):
        if os.path.basename(folder) in refused:  # root may read everything
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    fill(tmp_path, "a/x.jpg", "lost+found/x.jpg", "café/y.jpg")
    scandir, refused = os.scandir, [b"lost+found"]
    monkeypatch.setattr(os, "scandir", refuse)
    assert "2 images" in data("list", tmp_path).stdout
    refused.append("café".encode())
    assert f"{tmp_path}/café: Permission denied" in one_line(data("list", tmp_path))


def test_a_named_pipe_never_holds_the_run_and_what_is_not_read_is_said(tmp_path):
    fill(tmp_path, "a.gif", "b.gif", "n01.zip")
    assert "it holds 2 .gif, 1 .zip, which are not" in refused(list_images, tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="no ordinary file"):
        open_images(tmp_path).read(0)
    for name in ("pipe.jpg", "nope"):
        assert "no such folder" in refused(open_images, tmp_path / name)


@pytest.fixture(scope="module")
def roots(images, tmp_path_factory) -> list[Path]:
    """The same images as a folder, a tar and a pack."""
    folder = tmp_path_factory.mktemp("roots")
    pack(str(images / "train"), str(folder / "pack"))
    return [images / "train", tar(images / "train", folder / "x.tar"), folder / "pack"]


@pytest.mark.parametrize(
    "content",
    [
        b"class1/003.png\n\n./class0/002.png\r\nclass1/003.png\n",
        b"class1/003.png 1\nclass0/002.png 0\n",  # Caffe, mmselfsup
        b"class1/003.png\t1 0 -1.5\r\nclass0/002.png,class0",
        b"\xef\xbb\xbfclass1/003.png \nclass0/002.png\t\n",
        b"ROOT/class1/003.png\nROOT/class0/002.png\n",
    ],
)
def test_a_list_names_the_images_of_a_folder_or_tar_or_pack(images, roots, tmp_path, content):
    for root in roots:
        (tmp_path / "list.txt").write_bytes(content.replace(b"ROOT", os.fsencode(root)))
        found = open_images(root, str(tmp_path / "list.txt"))
        assert found.paths.tolist() == [b"class0/002.png", b"class1/003.png"]
        assert found.read(1) == (images / "train" / "class1" / "003.png").read_bytes()
        left = open_images(root).without(tmp_path / "list.txt")
        assert len(left) == 78 and not np.isin(found.paths, left.paths).any()


def test_missing_paths_are_named(roots, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text("class0/000.png\n" + "".join(f"class0/g{i}.png\n" for i in range(9)))
    for root in roots:
        with pytest.raises(ImageError) as error:
            open_images(root, str(listed)).read(1)
        note = capsys.readouterr().err
        assert error.value.reason == "missing" and "9 of its 10 paths are not among" in note
        assert "class0/g0.png, class0/g1.png" in note and "g5" not in note


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ROOT/class0/000.png", "the folder's own name"),
        (b"class0\\000.png", "backslashes"),
        (b"class0/000", "do not end as an image's name does"),
        (b"000.png", "have no folder"),
        (b"class0/000.png masks/000.png", "several paths a line"),
        (b"class0/999.png", "another folder"),
        *((b"class0/000.png\n" + path, OUTSIDE) for path in (b"../x.png", b"/x.png", b"a//x.png")),
        (b"\n", "names no image"),
        ("class0/000.png".encode("utf-16"), "in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_list_of_nothing_that_is_there_stops(roots, tmp_path, content, said):
    listed = tmp_path / "list.txt"
    for root in roots:
        if content is not None:
            listed.write_bytes(content.replace(b"ROOT", os.path.basename(os.fsencode(root))))
        assert re.search(said, refused(open_images, root, str(listed)))
        assert re.search(said, refused(open_images(root).without, listed))


def test_names_of_other_encodings_are_listed_on_any_terminal(tmp_path):
    name, listed = b"caf\xe9 %#\xe2\x98\x83.jpg", tmp_path / "list.txt"
    (tmp_path / "images").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/images/" + name)).write_bytes(b"x")
    command = [sys.executable, "-m", "data", "list", tmp_path / "images", "--out", listed]
    done = execute(command, text=False, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and b"caf" in done.stdout and not done.stderr
    assert listed.read_bytes() == name + b"\n"
    assert open_images(tmp_path / "images", str(listed)).read(0) == b"x"
