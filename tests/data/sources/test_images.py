"""What a folder holds: sorted, at any depth, without what systems put there."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data.cli import UsageError
from data.sources.images import ImageError, list_images, open_images


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_list_is_sorted_by_bytes_at_any_depth_and_follows_links(tmp_path):
    root = tmp_path / "root"
    fill(root, "b/x.JPEG", "a/deep/er/y.png", "a/ünï code.webp", "a/notes.txt", "Z.bmp", "t.TIFF")
    fill(tmp_path / "elsewhere", "linked.pgm")
    os.symlink(tmp_path / "elsewhere", root / "c")
    os.symlink(root, root / "loop")  # must not be walked for ever
    os.symlink(root, tmp_path / "elsewhere" / "back")
    expected = ["Z.bmp", "a/deep/er/y.png", "a/ünï code.webp", "b/x.JPEG", "c/linked.pgm", "t.TIFF"]
    assert [p.decode() for p in list_images(root).tolist()] == sorted(expected, key=str.encode)


def test_bad_folders(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        list_images(tmp_path / "nope")
    with pytest.raises(UsageError, match="no images"):
        list_images(tmp_path)


def test_files_of_systems_and_tools_are_no_data(tmp_path, capsys):
    fill(
        tmp_path,
        "class/x.jpg",
        "class/._x.jpg",
        ".ipynb_checkpoints/x-checkpoint.jpg",
        "class/.ipynb_checkpoints/x-checkpoint.jpg",
        "class/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/class/x.jpg",
        ".DS_Store",
        "lost+found/x.jpg",
        ".Trash-1000/files/x.jpg",
    )
    assert list_images(tmp_path).tolist() == [b"class/x.jpg"] and not capsys.readouterr().err


AS_A_USER = """
import os, sys
from data.cli import run
from data.commands import list_images
if os.getuid() == 0:  # who may read everything
    os.setgid(65534)
    os.setuid(65534)
run(lambda: list_images(sys.argv[1]))
"""


def test_an_unreadable_folder_is_an_error_that_names_it():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for one user
        root = Path(folder)
        fill(root, "a/x.jpg", "lost+found/x.jpg", "café/y.jpg")
        root.chmod(0o755)
        (root / "lost+found").chmod(0)
        command = [sys.executable, "-c", AS_A_USER, folder]
        options = {"cwd": Path(__file__).parents[3], "capture_output": True, "text": True}
        assert "2 images" in subprocess.run(command, **options).stdout
        (root / "café").chmod(0)
        done = subprocess.run(command, **options)
        (root / "café").chmod(0o755)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"{folder}/café: Permission denied" in done.stderr


def test_what_is_left_out_is_said(tmp_path, capsys):
    fill(tmp_path, "a.gif", "b.gif", "n01.zip")
    with pytest.raises(UsageError, match=r"no images .*it holds 2 \.gif, 1 \.zip, which are not"):
        list_images(tmp_path)
    fill(tmp_path, "c.jpg")
    assert list_images(tmp_path).tolist() == [b"c.jpg"]
    assert "left out 2 .gif, 1 .zip" in capsys.readouterr().err


def test_a_named_pipe_never_holds_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="no ordinary file"):
        open_images(tmp_path).read(0)
    with pytest.raises(UsageError, match="no such folder"):
        open_images(tmp_path / "pipe.jpg")
