"""What the notebooks look at: images, their caches, and two runs of one epoch with their
results."""

from __future__ import annotations

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
    tree, cache, data = images / "train", out / "rbd", out / "data"
    build(str(tree), str(cache), Recipe("rbd", (), 32))
    data.mkdir()
    for split in ("train", "val"):
        (data / split).symlink_to(tree)
    for name, masks in (("baseline", "none"), ("dilo", cache)):
        train(config(images, masks, out / name, epochs=1))
        command("knn", knn, ["--run", str(out / name), "--data", str(data), "--k", "5"])
    places = {"IMAGES": tree, "CACHE": cache, "CACHES": f"{cache}:{truth_cache}", "DATA": data}
    places |= {"TRUTH": truth_cache, "OUT": out / "caches", "EXCLUDE": out / "exclude.txt"}
    places |= {"MASKS": images / "masks", "RUNS": f"{out / 'baseline'}:{out / 'dilo'}"}
    return {key: str(value) for key, value in places.items()}
