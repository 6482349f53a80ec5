"""Layouts that people have: listed, packed, masked and trained on as they are."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import decode, open_images
from data.sources.labelled import Labelled
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.data.sources.test_archives import pack
from tests.train.runs import config, losses
from train.loop import train
from train.presets import change


def tiny_imagenet(images: Path, root: Path) -> Path:
    """As it is unpacked: train/CLASS/images/..., with a list of boxes in each class."""
    for i, picture in enumerate(sorted((images / "train").glob("*/*.png"))):
        folder = root / "train" / f"n0{i % 2}"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"n0{i % 2}_boxes.txt").write_text("n00_0.JPEG\t0\t10\t63\t58\n")
        shutil.copy(picture, folder / "images" / f"n0{i % 2}_{i}.JPEG")  # PNGs by content
    return root / "train"


def class_tars(images: Path, root: Path) -> Path:
    root.mkdir()
    for folder in sorted((images / "train").iterdir()):
        pack(root / f"{folder.name}.tar", folder)
    return root


def converted(images: Path, root: Path, ending: str) -> Path:
    for picture in sorted((images / "train").glob("*/*.png")):
        file = (root / picture.relative_to(images / "train")).with_suffix(ending)
        file.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(file), cv2.imread(str(picture)))
        (file.parent / "extra.gif").write_bytes(b"GIF89a")
    return root


LAYOUTS = {
    "tiny-imagenet": tiny_imagenet,
    "class tars": class_tars,
    "tif": lambda images, root: converted(images, root, ".tif"),
    "ppm": lambda images, root: converted(images, root, ".ppm"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_listed_packed_masked_and_trained_on(images, data, tmp_path, layout):
    root = LAYOUTS[layout](images, tmp_path / "images")
    code, said, notes = data("list", root)
    assert code == 0 and f"{root}: 80 images" in said
    assert ("left out 2 .gif" in notes) == (layout in ("tif", "ppm"))
    assert data("pack", root, tmp_path / "pack", "--workers", "1")[0] == 0
    build(str(root), str(tmp_path / "masks"), Recipe("centre", (), 32), shard_size=50)
    masks = Cache(tmp_path / "masks")
    assert len(masks) == 80 and not masks.status.any()
    settings = config(images, tmp_path / "masks", tmp_path / "run", epochs=1)
    assert train(change(settings, images=str(root)))
    packed = {"images": str(tmp_path / "pack"), "out": str(tmp_path / "packed"), "workers": 2}
    assert train(change(settings, **packed))
    assert losses(tmp_path / "run") == losses(tmp_path / "packed")


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".ppm", ".pgm"])
def test_other_formats_are_decoded_as_torchvision_names_them(tmp_path, ending):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if ending == ".pgm" else image[..., ::-1]
    cv2.imwrite(str(tmp_path / f"x{ending}"), stored)
    found = decode(open_images(tmp_path).read(0))
    expected = np.repeat(stored[..., None], 3, 2) if ending == ".pgm" else image
    assert np.array_equal(found, expected)


def test_the_labels_of_tiny_imagenets_val_are_in_its_annotations(images, tmp_path):
    train_set = Labelled(str(tiny_imagenet(images, tmp_path)), 32)
    lines = []
    (tmp_path / "val" / "images").mkdir(parents=True)
    for i, picture in enumerate(sorted((images / "train").glob("*/*.png"))[:6]):
        shutil.copy(picture, tmp_path / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\tn0{i % 2}\t0\t0\t62\t62\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    val = Labelled(str(tmp_path / "val"), 32, train_set.classes)
    assert train_set.classes == ["n00", "n01"] and train_set.labels.tolist() == [0] * 40 + [1] * 40
    assert val.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (tmp_path / "val" / "val_annotations.txt").write_text(lines[0])
    with pytest.raises(UsageError, match=r"val_annotations.txt: has no line for .*val_1.JPEG"):
        Labelled(str(tmp_path / "val"), 32, train_set.classes)
