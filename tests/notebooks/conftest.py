"""What the notebooks look at: 40 images, their caches, and two runs of one epoch with their results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.train.runs import config


@pytest.fixture(scope="session")
def notebook_inputs(images: Path, truth_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables that the notebooks read."""
    from evaluate import knn
    from evaluate.common import publish
    from preprocess.blocks import Recipe
    from preprocess.build import build
    from train.loop import train

    out = tmp_path_factory.mktemp("notebooks")
    forty = out / "forty.txt"
    names = sorted(p.relative_to(images / "train").as_posix() for p in (images / "train").rglob("*.png"))
    forty.write_text("".join(name + "\n" for name in names[::2]))
    for name in ("rbd", "centre"):
        build(str(images / "train"), str(out / name), Recipe(name, (), 32), listed=str(forty))
    for name, masks in (("baseline", "none"), ("dilo", out / "rbd")):
        train(config(images, masks, out / name, list=str(forty), epochs=1))
    data = out / "data"
    data.mkdir()
    for part in ("train", "val"):
        os.symlink(images / "train", data / part)
    for name in ("baseline", "dilo"):
        args = knn.Arguments(run=str(out / name), data=str(data), k=(5,))
        publish(knn.run(**vars(args)), args)
    return {"IMAGES": str(images / "train"), "CACHE": str(out / "rbd"), "CACHES": f"{out / 'rbd'}:{out / 'centre'}",
            "TRUTH": str(truth_cache), "OUT": str(out / "caches"), "EXCLUDE": str(out / "exclude.txt"),
            "RUNS": f"{out / 'baseline'}:{out / 'dilo'}"}
