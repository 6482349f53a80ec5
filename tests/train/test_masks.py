"""Which masks are used, and the controls."""

import numpy as np
import pytest

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.train.runs import config
from train.loop import train
from train.masks import Masks, ellipse_like, make_masks, shuffled_rows


class Held:
    """A cache of given masks."""

    def __init__(self, masks):
        self.masks, self.status = masks, np.zeros(len(masks), np.uint8)

    def mask(self, row):
        return self.masks[row]


def test_failed_empty_and_full_masks_are_never_used():
    levels = np.array([0, 1, 128, 254, 255, 255], np.uint8)
    cache = Held(np.broadcast_to(levels[:, None, None], (6, 32, 32)).copy())
    cache.masks[5, 0, 0] = 254  # nearly full is used
    cache.status[2] = 5
    rows = np.arange(6)
    usable = [Masks(cache, rows)[i] is not None for i in rows]
    assert usable == [False, True, False, True, False, True]
    narrow = Masks(cache, rows, limits=(0.01, 0.997))
    assert [narrow[i] is not None for i in rows] == [False, False, False, True, False, False]
    assert np.array_equal(Masks(cache, rows[::-1])[2], cache.masks[3])


@pytest.mark.parametrize("side", [32, 127, 128])
@pytest.mark.parametrize("coverage", [0.001, 0.05, 0.3, 0.7, 0.9])
def test_the_ellipse_has_the_masks_coverage_and_stands_in_the_middle(side, coverage):
    rng = np.random.default_rng(0)
    mask = np.clip(rng.normal(255 * coverage, 40, (side, side)), 0, 255).astype(np.uint8)
    ellipse = ellipse_like(mask)
    assert (
        int(ellipse.sum()) == int(mask.sum())
        and np.isin(ellipse, [0, 255]).sum() >= side * side - 1
    )
    y, x = np.nonzero(ellipse)
    middle = (side - 1) / 2
    assert abs(x.mean() - middle) < 0.5 and abs(y.mean() - middle) < 0.5
    share = mask.mean() / 255
    if (
        9 / side**2 < share < np.pi / 4
    ):  # it lies within the image, so it is a disc in squashed coordinates
        radius = np.hypot(x - middle, y - middle).max()
        assert abs(radius - side * np.sqrt(share / np.pi)) < 1


def test_controls(images, truth_cache, tmp_path):
    found, cache = open_images(images / "train"), Cache(truth_cache)
    rows = cache.require(found.paths)
    plain, truth, ellipse, shuffled = (
        make_masks(config(images, truth_cache, "", control=c), cache, rows)
        for c in ("none", "truth", "ellipse", "shuffled")
    )
    assert np.array_equal(plain[3], truth[3]) and np.array_equal(ellipse[3], ellipse_like(plain[3]))
    assert sorted(shuffled.rows) == sorted(rows) and (shuffled.rows != rows).all()
    assert np.array_equal(shuffled.rows, shuffled_rows(rows, seed=0))
    build(str(images / "train"), str(tmp_path / "estimated"), Recipe("centre", (), 32))
    with pytest.raises(
        UsageError, match=r"--control truth: .* holds masks estimated by centre, not true ones"
    ):
        train(config(images, tmp_path / "estimated", tmp_path / "run", control="truth"))
