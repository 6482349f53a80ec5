"""Tars and other layouts that people have: the images of the plain folder; an index; bad ones."""

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from data.sources.images import ImageError, decode, open_images
from data.sources.labelled import Labelled
from data.sources.pack import Settings, pack
from tests.conftest import data, one_line, refused

OUTSIDE = "path", lambda paths: np.append([b"../../x.png"], paths[1:])
LINK = "path", lambda _: h5py.ExternalLink("y", "x")
BEYOND = "span", lambda spans: np.add(spans, [0, 1 << 40, 0])


def tar(root: Path, file: Path) -> Path:
    with tarfile.open(file, "w") as archive:
        archive.add(root, ".")
    return file


def class_tars(root: Path, out: Path) -> Path:
    out.mkdir()
    for folder in root.iterdir():
        tar(folder, out / f"{folder.name}.tar")
    return out


def converted(root: Path, out: Path) -> Path:
    for picture in root.glob("*/*.png"):
        file = (out / picture.relative_to(root)).with_suffix(".tif")
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), cv2.imread(str(picture)))
        (file.parent / "extra.gif").write_bytes(b"GIF89a")
    return out


def packed(root: Path, out: Path) -> Path:
    pack(str(root), str(out), Settings(shard_size=40))
    return out


LAYOUTS = {"pack": packed, "tar": tar, "class tars": class_tars, "tif": converted}
LAYOUTS["tar of tars"] = lambda root, out: tar(class_tars(root, out.with_name("tars")), out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_holds_the_images_of_the_folder(images, tmp_path, layout):
    root = LAYOUTS[layout](images / "train", tmp_path / "images")
    done = data("list", root)
    assert done.returncode == 0 and f"{root}: 80 images" in done.stdout
    assert ("left out 2 .gif" in done.stderr) == (layout == "tif")
    folder, found = open_images(images / "train"), open_images(root)  # tars: from their index
    assert root.with_name("images.index.h5").exists() == ("tar" in layout)
    if layout != "tif":
        assert np.array_equal(found.paths, folder.paths)
        assert np.array_equal(found.stat()[:, 0], folder.stat()[:, 0])
    part = pickle.loads(pickle.dumps(found.take(slice(38, 43))))  # over a shard's end
    assert len(pickle.dumps(part)) < 10_000
    for i in range(5):
        assert np.array_equal(decode(part.read(i)), decode(folder.read(38 + i)))
    (tmp_path / "list.txt").write_text(part.name(4))
    assert open_images(root, str(tmp_path / "list.txt")).read(0) == part.read(4)


def test_the_labels_of_tiny_imagenets_val_are_in_its_annotations(images, tmp_path):
    classes = Labelled(str(images / "train"), 32).classes
    shutil.copytree(images / "train" / "class0", tmp_path / "images")
    lines = [f"{i:03d}.png\tclass{i // 2 % 2}\t0\t0\t62\t62\n" for i in range(0, 80, 2)]
    (tmp_path / "val_annotations.txt").write_text("".join(lines))
    assert Labelled(str(tmp_path), 32, classes).labels.tolist() == [0, 1] * 20
    (tmp_path / "val_annotations.txt").write_text(lines[0])
    error = refused(Labelled, str(tmp_path), 32, classes)
    assert "val_annotations.txt: has no line for" in error and "002.png" in error


@pytest.mark.parametrize("damage", [OUTSIDE, LINK, BEYOND])
def test_the_index_is_kept_elsewhere_too_and_made_again(images, tmp_path, monkeypatch, damage):
    column, change = damage
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    file = tar(images / "train", tmp_path / "x.tar")
    (tmp_path / "x.tar.index.h5").mkdir()  # stops root too, who may write anywhere
    stat, expected = file.stat(), open_images(file)
    (place,) = (tmp_path / "home" / "dilo").glob("x.tar-*.index.h5")
    with h5py.File(place, "r+") as index:
        index[column] = change(index.pop(column)[...])
    open_images(file)
    file.write_bytes(bytes(stat.st_size))  # whoever scanned it again would find nothing
    os.utime(file, ns=(0, stat.st_mtime_ns))
    again = open_images(file)
    assert np.array_equal(again.paths, expected.paths)
    assert np.array_equal(again.stat(), expected.stat())
    tar(images / "train" / "class0", file)
    assert len(open_images(file)) == 40


def archive(*members: tuple, mode: str = "w") -> bytes:
    """A tar of (name, content), and of links (name, type, target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as written:
        for name, content, *target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = content, *target
            info.size = 0 if target else len(content)
            written.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_links_repeated_names_and_odd_names_inside_a_tar(tmp_path):
    expected = {"a/one.jpg": b"new", "b/ünï code.jpg": b"two", f"b/{'long' * 60}.jpg": b"three"}
    content = archive(
        ("./a/one.jpg", b"old"),
        *expected.items(),  # the later counts
        ("b/hard.jpg", tarfile.LNKTYPE, "./a/one.jpg"),
        ("b/soft.jpg", tarfile.SYMTYPE, "../b/ünï code.jpg"),
        ("b/out.jpg", tarfile.SYMTYPE, "../../etc/passwd"),
        ("b/._two.jpg", b"x"),  # what a Mac adds
        ("__MACOSX/b/two.jpg", b"x"),
    )
    (tmp_path / "x.tar").write_bytes(content)
    images = open_images(tmp_path / "x.tar")
    rows = {images.name(row): row for row in range(len(images))}
    with pytest.raises(ImageError) as error:
        images.read(rows.pop("b/out.jpg"))
    assert error.value.reason == "missing"
    expected |= {"b/hard.jpg": b"new", "b/soft.jpg": b"two"}
    assert {name: images.read(row) for name, row in rows.items()} == expected


WHOLE = archive(*((f"c{i}/{i:03d}.png", bytes(900)) for i in range(20)))
BIT = bytearray(WHOLE)
BIT[WHOLE.index(b"c9/") + 100] ^= 1  # of a header in the middle
OUT, CUT = "would leave the folder", "not a plain tar, or cut short"
BAD = {
    "out": (archive(("../x.jpg", b"x")), OUT),
    "absolute": (archive(("/x.jpg", b"x")), OUT),
    "no images": (archive(("notes.txt", b"x")), "no images"),
    "half": (WHOLE[: len(WHOLE) // 2], CUT),
    "bit": (bytes(BIT), CUT),
    "gzip": (archive(("a.jpg", b"x"), mode="w:gz"), CUT),
    "half a class": (archive(("n1.tar", WHOLE[:9000]), ("n2.tar", WHOLE)), CUT),
    "an empty class": (archive(("n1.tar", b""), ("n2.tar", WHOLE)), CUT),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_one_clear_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "x.tar").write_bytes(content)
    assert message in one_line(data("list", tmp_path / "x.tar"))
