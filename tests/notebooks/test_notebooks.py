"""Every notebook runs in a kernel of its own on tiny inputs, shows its figures, and is stored
without outputs."""

import json
import os
import sys
from pathlib import Path

import pytest

from data.cache.reader import Cache
from data.sources.images import open_images
from notebooks.__main__ import FOLDER, execute
from notebooks.suspicious import suspicious, union, write_exclusions
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.conftest import BARE, read_only

ROOT = FOLDER.parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_without_outputs_and_runs_from_top_to_bottom(path, notebook_inputs, monkeypatch):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    assert all(len(cell["source"]) <= 20 for cell in cells)  # heavy lines live in the packages
    for key, value in notebook_inputs.items():
        monkeypatch.setenv(key, value)
    notebook = execute(path, timeout=120)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert not any("Traceback" in output.get("text", "") for output in shown)


@pytest.mark.slow
def test_notebooks_write_where_they_are_told(notebook_inputs, tmp_path):
    """The project cannot be written, there is no home, and the terminal is ASCII."""
    inputs = {key: notebook_inputs[key] for key in ("IMAGES", "CACHE")}
    options = ("--only", "mask_quality", "--out", str(tmp_path / "é"))
    done = read_only(ROOT, sys.executable, "-m", "notebooks", *options, **BARE, **inputs)
    assert done.returncode == 0, done.stderr
    written = {file.name for file in (tmp_path / "é").iterdir()}
    assert written == {"mask_quality.html", "exclude.txt"}


def test_suspicious_masks_become_a_list_that_train_takes(images, tmp_path):
    """Also where a name is not UTF-8."""
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[:12]):
        name = b"class/\xe9\xff.png" if i == 0 else f"class/{i:02d}.png".encode()
        place = os.path.join(os.fsencode(tmp_path / "tree"), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(path, place)
    build(str(tmp_path / "tree"), str(tmp_path / "cache"), Recipe("centre", (), 32))
    cache = Cache(tmp_path / "cache")
    rows = union(suspicious(cache, everything=0.0).values())
    file = write_exclusions(cache, rows[:-1], tmp_path / "new" / "exclude.txt")
    assert len(rows) == 12 and Path(file).read_bytes().count(b"\n") == 11
    assert len(open_images(tmp_path / "tree").without(str(file))) == 1
