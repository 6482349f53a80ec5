"""Every notebook runs from top to bottom, on a tiny cache, and is stored without outputs."""

import json
import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, images, truth_cache, monkeypatch):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] for cell in cells)
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("IMAGES", os.fspath(images / "train"))
    monkeypatch.setenv("CACHE", os.fspath(truth_cache))
    names: dict = {}
    figures = 0
    for cell in cells:
        source = "".join(cell["source"])
        exec(compile(source, f"{path.name}", "exec"), names)
        last = source.splitlines()[-1]
        if last == "figure" or last.startswith("gallery("):  # what Jupyter would show
            shown = eval(last, names)
            assert isinstance(shown, Figure)
            shown.canvas.draw()
            figures += 1
    assert figures == 3
