"""Figures of the notebooks: what stands above a picture, and which picture it is."""

import tarfile

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from data.cache.reader import Cache
from data.sources.images import ImageError
from evaluate.masks import examples
from evaluate.style import COLOURS, STYLE
from notebooks import augmentation_grid, comparison
from notebooks.results import bars


def test_the_first_line_names_the_columns(images, truth_cache):
    cache = Cache(truth_cache)
    caches = {"rbd": cache, "mr": cache}
    figure = comparison.side_by_side(caches, images / "train", cache.paths[:2])
    assert [a.get_title() for a in figure.axes] == ["image", "rbd", "mr", "", "", ""]
    config = augmentation_grid.settings(str(images / "train"), str(truth_cache))
    figure = augmentation_grid.grid({"a": config, "b": config}, 0, 1)
    assert [a.get_title() for a in figure.axes] == ["image", "", "", ""]
    difference, overlap = comparison.agreements({"a": cache, "b": cache}, cache.paths[:5])
    assert np.array_equal(difference, np.zeros((2, 2))) and np.array_equal(overlap, np.ones((2, 2)))


def test_bars_have_the_common_style_whatever_the_users():
    figure = bars({"knn top-1": {"a": 50.0, "b": 60.0}}, "", "probes")
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colours == [to_rgba(colour) for colour in COLOURS[:2]]
    texts = figure.legends[0].get_texts()
    assert [text.get_text() for text in texts] == ["a", "b"]
    assert texts[0].get_fontsize() == STYLE["legend.fontsize"]
    empty = bars({}, "", "probes")
    assert [text.get_text() for text in empty.axes[0].texts] == ["not measured yet"]


def test_an_image_that_an_archive_lacks_is_not_replaced_by_another(images, truth_cache, tmp_path):
    cache = Cache(truth_cache)
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for path in cache.paths[1:3].tolist():
            archive.add(images / "train" / path.decode(), path.decode())
    shown = examples.read(cache, tmp_path / "some.tar", 2)
    expected = cv2.imread(str(images / "train" / cache.paths[2].decode()))[..., ::-1]
    assert np.array_equal(shown, expected)
    for row in (0, 3):
        with pytest.raises(ImageError, match="is not in"):
            examples.read(cache, tmp_path / "some.tar", row)
