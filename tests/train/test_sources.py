"""The trainer and the probes see the same from a folder, a tar and a list; masks and odd images
always align."""

import dataclasses
import tarfile

import numpy as np
import pytest

from data.cache.reader import Cache
from data.sources.images import ImageError, decode, open_images
from evaluate.features import Labelled
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.config import Config
from train.loader import Pairs
from train.masks import Masks
from train.presets import moco_v2_demo
from train.views import Views

CONFIG = Config(images="", out="", **moco_v2_demo())


@pytest.fixture
def packed(images, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(images / "train", ".")
    return tmp_path / "train.tar"


def test_views_and_probes_are_the_same_from_a_tar_and_a_list(images, truth_cache, tmp_path, packed):
    (tmp_path / "list.txt").write_bytes(b"\n".join(open_images(packed).paths.tolist()))
    cache = Cache(truth_cache)
    batches = []
    for found in (
        open_images(images / "train"),
        open_images(packed),
        open_images(packed, str(tmp_path / "list.txt")),
    ):
        masks = Masks(cache, cache.require(found.paths))
        pairs = Pairs(found, Views.of(dataclasses.replace(CONFIG, paste_p=1.0)), masks)
        batches.append(pairs.__getitems__([(0, 3), (1, 77), (0, 41)])["views"].numpy())
    assert np.array_equal(batches[0], batches[1]) and np.array_equal(batches[0], batches[2])
    folder, tar = (
        Labelled(str(images / "train"), 32),
        Labelled(str(tmp_path / "train"), 32),
    )  # finds train.tar
    assert tar.classes == folder.classes and np.array_equal(tar.labels, folder.labels)
    assert np.array_equal(tar[5], folder[5])


def test_a_row_has_a_mask_exactly_where_the_trainer_has_an_image(shared, tmp_path):
    root = shared / "odd_images"
    build(str(root), str(tmp_path / "cache"), Recipe("spectral", (), 32))
    cache, images = Cache(tmp_path / "cache"), open_images(root)
    sizes = cache.column("size")
    masks = Masks(cache, cache.require(images.paths))
    pairs = Pairs(images, Views.of(CONFIG), masks)
    for row in range(len(images)):
        try:
            image = decode(images.read(row))
        except ImageError:
            assert cache.status[row] and masks[row] is None and not cache.mask(row).any()
            continue
        assert cache.status[row] == 0 and sizes[row].tolist() == list(image.shape[:2])
        found, where = pairs._image(row)
        assert where == row and np.array_equal(found, image)
