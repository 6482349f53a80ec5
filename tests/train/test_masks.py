"""Which masks are used, and the controls."""

import numpy as np
import pytest

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.train.runs import config
from train.dataset import open_training_set
from train.loop import train
from train.masks import Masks, ellipse_like, make_masks


class Held:
    """A cache of masks that are nearly of one level each."""

    def __init__(self, *levels: int):
        self.masks = np.stack([np.full((32, 32), level, np.uint8) for level in levels])
        self.status = np.zeros(len(levels), np.uint8)

    def mask(self, row: int) -> np.ndarray:
        return self.masks[row]


def test_failed_empty_and_full_masks_are_never_used():
    cache, rows = Held(0, 1, 128, 254, 255, 255), np.arange(6)
    cache.masks[5, 0, 0] = 254  # nearly full is used
    cache.status[2] = 5
    assert [i for i in rows if Masks(cache, rows)[i] is not None] == [1, 3, 5]
    narrow = Masks(cache, rows, limits=(0.01, 0.997))
    assert [i for i in rows if narrow[i] is not None] == [3]
    assert np.array_equal(Masks(cache, rows[::-1])[2], cache.masks[3])


@pytest.mark.parametrize("side", [32, 127])
@pytest.mark.parametrize("coverage", [0.001, 0.05, 0.3, 0.7, 0.9])
def test_the_ellipse_has_the_masks_coverage_and_stands_in_the_middle(side, coverage):
    rng = np.random.default_rng(0)
    mask = np.clip(rng.normal(255 * coverage, 40, (side, side)), 0, 255).astype(np.uint8)
    ellipse = ellipse_like(mask)
    assert ellipse.sum(dtype=int) == mask.sum(dtype=int)
    assert np.isin(ellipse, [0, 255]).sum() >= side * side - 1
    y, x = np.nonzero(ellipse) - np.array((side - 1) / 2)
    assert abs(x.mean()) < 0.5 and abs(y.mean()) < 0.5
    share = mask.mean() / 255
    # where it lies within the image it is a disc in squashed coordinates
    if 9 / side**2 < share < np.pi / 4:
        assert abs(np.hypot(x, y).max() - side * np.sqrt(share / np.pi)) < 1


def test_controls(images, truth_cache, tmp_path):
    cache, found = Cache(truth_cache), open_images(images / "train")
    rows = cache.require(found.paths)
    plain, truth, ellipse, shuffled, again = (
        make_masks(config(images, truth_cache, "", control=c), cache, rows)
        for c in ("none", "truth", "ellipse", "shuffled", "shuffled")
    )
    assert np.array_equal(plain[3], truth[3]) and np.array_equal(ellipse[3], ellipse_like(plain[3]))
    assert sorted(shuffled.rows) == sorted(rows) and (shuffled.rows != rows).all()
    assert np.array_equal(shuffled.rows, again.rows)
    build(str(images / "train"), str(tmp_path / "estimated"), Recipe("centre", (), 32))
    with pytest.raises(
        UsageError, match=r"--control truth: .* masks estimated by centre, not true"
    ):
        train(config(images, tmp_path / "estimated", tmp_path / "run", control="truth"))


@pytest.mark.parametrize("changes", [{}, {"control": "shuffled"}, {"crop_keeps": 0.2}])
def test_masks_that_cannot_be_pasted_are_counted_and_refused(
    images, truth_cache, tmp_path, changes, monkeypatch
):
    settings = config(images, truth_cache, tmp_path / "run", **changes)
    assert open_training_set(settings).usable.startswith("80 of 80 images can be pasted")
    narrow = config(images, truth_cache, "", mask_coverage=(0.1, 1.0), **changes)
    assert 0 < int(open_training_set(narrow).usable.split()[0]) < 80
    failed = Cache(truth_cache)
    failed.status = np.ones_like(failed.status)
    monkeypatch.setattr("train.dataset.Cache", lambda folder: failed)
    with pytest.raises(UsageError, match=r"none of the 80 images can be pasted: 80 have no mask"):
        train(settings)
    assert not (tmp_path / "run").exists()
