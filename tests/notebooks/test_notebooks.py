"""Every notebook runs on tiny inputs, shows its figures, and is stored without outputs."""

import json
import os
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.sources.images import ImageError, open_images
from evaluate.masks.examples import read
from notebooks import comparison
from notebooks.__main__ import FOLDER, execute
from notebooks.suspicious import suspicious, union, write_exclusions
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.conftest import BARE, read_only
from tests.evaluate.folders import evaluate
from tests.train.runs import config
from train.loop import train


@pytest.fixture(scope="module")
def notebook_inputs(images, truth_cache, tmp_path_factory) -> dict[str, str]:
    """The environment variables that the notebooks read: images, caches, two runs with results."""
    out = tmp_path_factory.mktemp("notebooks")
    tree, cache, data = images / "train", out / "rbd", out / "data"
    build(str(tree), str(cache), Recipe("rbd", (), 32))
    data.mkdir()
    for split in ("train", "val"):
        (data / split).symlink_to(tree)
    for name, masks in (("baseline", "none"), ("dilo", cache)):
        train(config(images, masks, out / name, epochs=1))
        evaluate(f"knn --run {out / name} --data {data} --k 5")
    places = {"IMAGES": tree, "CACHE": cache, "CACHES": f"{cache}:{truth_cache}", "DATA": data}
    places |= {"TRUTH": truth_cache, "OUT": out / "caches", "EXCLUDE": out / "exclude.txt"}
    places |= {"MASKS": images / "masks", "RUNS": f"{out / 'baseline'}:{out / 'dilo'}"}
    return {key: str(value) for key, value in places.items()}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_without_outputs_and_runs_from_top_to_bottom(path, notebook_inputs, monkeypatch):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert all(len(cell["source"]) <= 20 for cell in cells)  # heavy lines live in the packages
    for key, value in notebook_inputs.items():
        monkeypatch.setenv(key, value)
    cells = [cell for cell in execute(path, timeout=120).cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert not any("Traceback" in output.get("text", "") for output in shown)


@pytest.mark.slow
def test_notebooks_write_where_they_are_told(notebook_inputs, tmp_path):
    """The project cannot be written, there is no home, and the terminal is ASCII."""
    inputs = {key: notebook_inputs[key] for key in ("IMAGES", "CACHE")}
    options = ("--only", "mask_quality", "--out", str(tmp_path / "é"))
    done = read_only(FOLDER.parent, sys.executable, "-m", "notebooks", *options, **BARE, **inputs)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "é")) == ["exclude.txt", "mask_quality.html"]


def test_suspicious_masks_become_a_list_that_train_takes(images, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("\udce9\udcff.png", "1.png", "2.png"):
        (tree / name).symlink_to(images / "train/class0/000.png")
    build(str(tree), str(tmp_path / "cache"), Recipe("centre", (), 32))
    cache = Cache(tmp_path / "cache")
    rows = union(suspicious(cache, everything=0.0).values())
    file = write_exclusions(cache, rows[1:], tmp_path / "new" / "exclude.txt")
    assert len(rows) == 3 and Path(file).read_bytes() == b"2.png\n\xe9\xff.png\n"
    assert open_images(tree).without(str(file)).paths.tolist() == [b"1.png"]


def test_pictures_have_their_titles_and_none_is_replaced_by_another(images, truth_cache, tmp_path):
    cache, some = Cache(truth_cache), tmp_path / "some.tar"
    caches = {"rbd": cache, "mr": cache}
    figure = comparison.side_by_side(caches, images / "train", cache.paths[:2])
    assert [a.get_title() for a in figure.axes] == ["image", "rbd", "mr", "", "", ""]
    difference, overlap = comparison.agreements(caches, cache.paths[:5])
    assert np.array_equal(difference, np.zeros((2, 2))) and np.array_equal(overlap, np.ones((2, 2)))
    with tarfile.open(some, "w") as archive:
        for path in map(os.fsdecode, cache.paths[1:3]):
            archive.add(images / "train" / path, path)
    expected = cv2.imread(str(images / "train" / cache.paths[2].decode()))[..., ::-1]
    assert np.array_equal(read(cache, some, 2), expected)
    for row in (0, 3):
        with pytest.raises(ImageError, match="is not in"):
            read(cache, some, row)
