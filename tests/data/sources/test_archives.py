"""Images from a tar, a tar of tars and a list: the folder's paths and bytes, nothing outside the
root."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.cli import UsageError
from data.sources.images import ImageError, open_images


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Where indexes go that cannot lie beside their archive."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def pack(file: Path, root: Path) -> Path:
    with tarfile.open(file, "w") as tar:
        tar.add(root, ".")
    return file


def pack_of_tars(file: Path, root: Path) -> Path:
    """As ILSVRC2012_img_train.tar: a tar a class."""
    with tarfile.open(file, "w") as outer:
        for folder in sorted(root.iterdir()):
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as inner:
                for image in sorted(folder.iterdir()):
                    inner.add(image, image.name)
            member = tarfile.TarInfo(f"{folder.name}.tar")
            member.size = len(content.getvalue())
            outer.addfile(member, io.BytesIO(content.getvalue()))
    return file


@pytest.mark.parametrize("packer", [pack, pack_of_tars])
def test_same_paths_bytes_and_lengths_as_the_folder(images, tmp_path, packer):
    folder = open_images(images / "train")
    packed = open_images(packer(tmp_path / "x.tar", images / "train"))
    assert np.array_equal(packed.paths, folder.paths)
    for i in (0, 17, 79):
        assert packed.read(i) == folder.read(i)
    assert np.array_equal(packed.stat()[:, 0], folder.stat()[:, 0])
    part = pickle.loads(pickle.dumps(packed.take(slice(5, 9))))  # what a worker gets
    assert [part.read(i) for i in range(4)] == [folder.read(i) for i in range(5, 9)]
    assert len(pickle.dumps(packed.take(slice(64)))) < 10_000


def test_the_index_is_made_once_and_again_when_the_archive_changes(
    images, tmp_path, elsewhere, monkeypatch
):
    file = pack(tmp_path / "x.tar", images / "train")
    open_images(file)
    assert (tmp_path / "x.tar.index.h5").exists()
    with monkeypatch.context() as patch:
        patch.setattr("data.sources.archives._scan", lambda _: pytest.fail("scanned again"))
        assert len(open_images(file)) == 80
    pack(file, images / "train" / "class0")
    assert len(open_images(file)) == 40


def test_the_index_goes_to_the_users_cache_where_the_archives_folder_cannot_be_written(
    images, tmp_path, elsewhere, monkeypatch
):
    file = pack(tmp_path / "x.tar", images / "train")
    (
        tmp_path / "x.tar.index.h5"
    ).mkdir()  # root may write anywhere; a folder in the way stops it too
    assert len(open_images(file)) == 80
    assert list((elsewhere / "dilo").glob("x.tar-*.index.h5"))
    monkeypatch.setattr("data.sources.archives._scan", lambda _: pytest.fail("scanned again"))
    assert len(open_images(file)) == 80


def member(name: str, content: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def test_links_repeated_names_and_odd_names_inside_a_tar(tmp_path, elsewhere):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(*member("./a/one.jpg", b"old"))
        tar.addfile(*member("a/one.jpg", b"new"))  # the later counts
        tar.addfile(*member("b/ünï code.jpg", b"two"))
        tar.addfile(*member("b/hard.jpg", b"", type=tarfile.LNKTYPE, linkname="./a/one.jpg"))
        tar.addfile(*member("b/soft.jpg", b"", type=tarfile.SYMTYPE, linkname="../b/ünï code.jpg"))
        tar.addfile(*member("b/out.jpg", b"", type=tarfile.SYMTYPE, linkname="../../etc/passwd"))
        tar.addfile(*member("b/" + "long" * 60 + ".jpg", b"three"))
        tar.addfile(*member("b/notes.txt"))
    found = open_images(tmp_path / "x.tar")
    content = {}
    for i, path in enumerate(found.paths.tolist()):
        try:
            content[path.decode()] = found.read(i)
        except ImageError as error:
            content[path.decode()] = error.reason
    assert content == {
        "a/one.jpg": b"new",
        "b/ünï code.jpg": b"two",
        "b/hard.jpg": b"new",
        "b/soft.jpg": b"two",
        "b/out.jpg": "missing",
        "b/" + "long" * 60 + ".jpg": b"three",
    }


@pytest.mark.parametrize("name", ["../x.jpg", "/x.jpg", "a/../../x.jpg"])
def test_members_stay_inside_the_root(tmp_path, elsewhere, name):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info, content = member("placeholder.jpg")
        info.name = name
        tar.addfile(info, content)
    with pytest.raises(UsageError, match="would leave the folder"):
        open_images(tmp_path / "x.tar")


def test_bad_archives_are_one_clear_line(images, tmp_path, elsewhere):
    whole = pack(tmp_path / "x.tar", images / "train").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(images / "train", ".")
    (tmp_path / "text.tar").write_text("nothing of the kind" * 100)
    for name in ("cut", "packed", "text"):
        with pytest.raises(UsageError, match="not a plain tar, or cut short"):
            open_images(tmp_path / f"{name}.tar")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.addfile(*member("notes.txt"))
    with pytest.raises(UsageError, match="no images"):
        open_images(tmp_path / "none.tar")


def test_a_list_names_the_images_of_a_folder_or_tar(images, tmp_path, elsewhere):
    (tmp_path / "list.txt").write_text(
        "class1/003.png\n\n./class0/002.png\r\nclass0/gone.png\nclass1/003.png\n"
    )
    expected = [b"class0/002.png", b"class0/gone.png", b"class1/003.png"]
    for root in (images / "train", pack(tmp_path / "x.tar", images / "train")):
        found = open_images(root, str(tmp_path / "list.txt"))
        assert found.paths.tolist() == expected
        assert found.read(2) == (images / "train" / "class1" / "003.png").read_bytes()
        with pytest.raises(ImageError) as error:
            found.read(1)
        assert error.value.reason == "missing"


@pytest.mark.parametrize("line", ["../x.png", "/etc/passwd", "a/../../x.png", "a//x.png"])
def test_list_entries_stay_inside_the_root(images, tmp_path, line):
    (tmp_path / "list.txt").write_text(f"class0/000.png\n{line}\n")
    with pytest.raises(UsageError, match=r"line 2: .* is not a path below the image root"):
        open_images(images / "train", str(tmp_path / "list.txt"))


def test_bad_lists(images, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match="names no image"):
        open_images(images / "train", str(tmp_path / "empty.txt"))
    with pytest.raises(UsageError, match="No such file"):
        open_images(images / "train", str(tmp_path / "nope.txt"))


def test_a_named_pipe_never_holds_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    found = open_images(tmp_path)
    with pytest.raises(ImageError, match="no ordinary file"):
        found.read(0)


def test_the_list_command_writes_what_list_takes(images, tmp_path, elsewhere):
    tree = Path(__file__).parents[3]
    file = pack_of_tars(tmp_path / "x.tar", images / "train")
    done = subprocess.run(
        [sys.executable, "-m", "data", "list", file, "--out", tmp_path / "list.txt"],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "80 images, the first class0/000.png" in done.stdout, (
        done.stderr
    )
    assert np.array_equal(
        open_images(file, str(tmp_path / "list.txt")).paths, open_images(file).paths
    )
