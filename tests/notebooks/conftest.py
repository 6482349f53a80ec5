"""What the notebooks look at: 40 images, their caches, and two runs of one epoch with their
results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.train.runs import config


@pytest.fixture(scope="session")
def notebook_inputs(
    images: Path, truth_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment variables that the notebooks read."""
    from evaluate.common import command
    from evaluate.probes import knn
    from preprocess.pipeline import build
    from preprocess.recipe import Recipe
    from train.loop import train

    out = tmp_path_factory.mktemp("notebooks")
    tree = out / "data" / "train"
    for path in sorted((images / "train").rglob("*.png"))[::2]:
        place = tree / path.relative_to(images / "train")
        place.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path, place)
    os.symlink(tree, out / "data" / "val")
    for name in ("rbd", "centre"):
        build(str(tree), str(out / name), Recipe(name, (), 32))
    for name, masks in (("baseline", "none"), ("dilo", out / "rbd")):
        train(config(out / "data", masks, out / name, epochs=1))
    for name in ("baseline", "dilo"):
        command("knn", knn, ["--run", f"{out / name}", "--data", f"{out / 'data'}", "--k", "5"])
    return {
        "IMAGES": str(tree),
        "CACHE": str(out / "rbd"),
        "CACHES": f"{out / 'rbd'}:{out / 'centre'}",
        "TRUTH": str(truth_cache),
        "OUT": str(out / "caches"),
        "EXCLUDE": str(out / "exclude.txt"),
        "DATA": str(out / "data"),
        "MASKS": str(images / "masks"),
        "RUNS": f"{out / 'baseline'}:{out / 'dilo'}",
    }
