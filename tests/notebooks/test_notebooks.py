"""Every notebook runs in a kernel of its own on tiny inputs, shows its figures, and is stored
without outputs."""

import json
from pathlib import Path

import pytest

from notebooks.__main__ import FOLDER, execute

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_all_four_are_there():
    assert {path.stem for path in NOTEBOOKS} == {
        "mask_quality",
        "compare_estimators",
        "augmentation",
        "results",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_without_outputs_and_short(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert all(len(cell["source"]) <= 20 for cell in cells)  # heavy lines live in the packages


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path, notebook_inputs, monkeypatch):
    for name, value in notebook_inputs.items():
        monkeypatch.setenv(name, value)
    notebook = execute(path, timeout=120)
    shown = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert not any("Traceback" in output.get("text", "") for output in shown)


def test_mask_quality_writes_a_list_that_train_takes(notebook_inputs, monkeypatch):
    from data.cache.reader import Cache
    from data.sources.images import open_images
    from notebooks.suspicious import suspicious, union, write_exclusions

    cache = Cache(notebook_inputs["CACHE"])
    rows = union(suspicious(cache, empty=0.1))
    file = write_exclusions(cache, rows, notebook_inputs["EXCLUDE"] + ".list")
    images = open_images(notebook_inputs["IMAGES"])
    assert 0 < len(rows) < 40 and len(images.without(str(file))) == len(images) - len(rows)
    assert Path(file).read_text().count("\n") == len(rows)
