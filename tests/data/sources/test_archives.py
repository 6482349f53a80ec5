"""Images from a tar, a tar of tars and class tars: the folder's paths and bytes."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import h5py
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


def test_the_index_is_kept_and_made_again_when_the_archive_changes(images, tmp_path, elsewhere):
    file = pack(tmp_path / "x.tar", images / "train")
    open_images(file)
    assert (tmp_path / "x.tar.index.h5").exists()
    stat = file.stat()
    file.write_bytes(bytes(stat.st_size))  # whoever scanned it again would find nothing
    os.utime(file, ns=(0, stat.st_mtime_ns))
    assert len(open_images(file)) == 80
    pack(file, images / "train" / "class0")
    assert len(open_images(file)) == 40


def test_the_index_goes_elsewhere_where_it_cannot_lie_beside_the_archive(
    images, tmp_path, elsewhere, capfd
):
    file = pack(tmp_path / "x.tar", images / "train")
    (tmp_path / "x.tar.index.h5").mkdir()  # stops root too, who may write anywhere
    assert len(open_images(file)) == 80
    (index,) = (elsewhere / "dilo").glob("x.tar-*.index.h5")
    assert len(open_images(file)) == 80 and not capfd.readouterr().err
    index.unlink()
    index.mkdir()
    assert len(open_images(file)) == 80
    assert "x.tar: its index cannot be kept" in capfd.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"x.tar", "x.tar.index.h5", "home"}


def test_a_folder_of_class_tars_is_the_folder_of_classes(images, tmp_path, elsewhere):
    (tmp_path / "tars").mkdir()
    for name in ("class0", "class1"):
        pack(tmp_path / "tars" / f"{name}.tar", images / "train" / name)
    folder = open_images(images / "train")
    (tmp_path / "list.txt").write_text("class1/041.png\n")
    for _ in range(2):  # scanned, then from the index
        packed = open_images(tmp_path / "tars")
        assert np.array_equal(packed.paths, folder.paths)
        assert np.array_equal(packed.stat()[:, 0], folder.stat()[:, 0])
        assert all(packed.read(i) == folder.read(i) for i in (0, 79))
        chosen = open_images(tmp_path / "tars", str(tmp_path / "list.txt"))
        assert chosen.read(0) == (images / "train" / "class1" / "041.png").read_bytes()
    assert (tmp_path / "tars.index.h5").exists()


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("path", lambda paths: np.append([b"../../x.png"], paths[1:])),
        ("path", lambda _: h5py.ExternalLink("y", "x")),
        ("span", lambda spans: np.add(spans, [0, 1 << 40, 0])),
        ("span", lambda spans: spans[:3]),
    ],
)
def test_an_index_that_cannot_be_is_made_again(images, tmp_path, elsewhere, column, change):
    file = pack(tmp_path / "x.tar", images / "train")
    expected = open_images(file)
    with h5py.File(tmp_path / "x.tar.index.h5", "r+") as index:
        changed = change(index[column][...])
        del index[column]
        index[column] = changed
    again = open_images(file)
    assert np.array_equal(again.paths, expected.paths)
    assert np.array_equal(again.stat(), expected.stat())


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
        tar.addfile(*member("b/._two.jpg"))  # what a Mac adds
        tar.addfile(*member("__MACOSX/b/two.jpg"))
    images = open_images(tmp_path / "x.tar")
    rows = {images.name(row): row for row in range(len(images))}
    with pytest.raises(ImageError) as error:
        images.read(rows.pop("b/out.jpg"))
    assert error.value.reason == "missing"
    assert {name: images.read(row) for name, row in rows.items()} == {
        "a/one.jpg": b"new",
        "b/ünï code.jpg": b"two",
        "b/hard.jpg": b"new",
        "b/soft.jpg": b"two",
        "b/" + "long" * 60 + ".jpg": b"three",
    }


def test_bad_archives_are_one_clear_line(images, tmp_path, elsewhere):
    for name in ("../x.jpg", "/x.jpg", "a/../../x.jpg"):
        with tarfile.open(tmp_path / "out.tar", "w") as tar:
            tar.addfile(*member(name))
        with pytest.raises(UsageError, match="would leave the folder"):
            open_images(tmp_path / "out.tar")
    whole = pack(tmp_path / "x.tar", images / "train").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(images / "train", ".")
    (tmp_path / "text.tar").write_text("nothing of the kind" * 100)
    inner = tmp_path / "packed.tar"
    for name, content in (("inner", inner.read_bytes()), ("short", whole[:9000]), ("no", b"")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:  # a class whose tar is none
            tar.addfile(*member("n02.tar", whole))
            tar.addfile(*member("n01.tar", content))
            tar.addfile(*member("n03.tar", whole))
    broken = bytearray(whole)
    broken[whole.index(b"./class1/") + 200] ^= 1  # a bit of a header in the middle
    (tmp_path / "bit.tar").write_bytes(broken)
    for name in ("cut", "packed", "text", "inner", "short", "no", "bit"):
        with pytest.raises(UsageError, match="not a plain tar, or cut short"):
            open_images(tmp_path / f"{name}.tar")
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        tar.addfile(*member("notes.txt"))
    with pytest.raises(UsageError, match="no images"):
        open_images(tmp_path / "none.tar")
