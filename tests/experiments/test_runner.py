"""One row for real, on a tiny data set: trained, measured and kept."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from data.synthetic.variants import VARIANTS
from experiments.backgrounds import challenge
from experiments.masks import mask_scores
from experiments.measure import measure
from experiments.rows import Data
from experiments.runner import Study, make_masks, prepare, run_row
from experiments.table import gather, markdown

TINY = Data("embedded", 1, images=(140, 40, 40))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = Study("e1", TINY, tmp_path_factory.mktemp("experiments"))
    prepare(study)
    return study


def test_rows_are_trained_measured_and_kept(study):
    result = run_row(study, "none", 0)
    assert result["seed"] == 0 and "--seed 0" in result["command"] and result["commit"]
    assert 0 <= result["measured"]["knn"] <= 100 and "untrained" in result
    assert set(result["measured"]["backgrounds"]["biased"]) >= {"mixed_rand", "gap"}
    file = study.file("none", 0)
    assert result["measured"] == measure(file.parent, TINY, study.images)  # from the weights alone
    weights = file.with_name("backbone.pt").stat().st_mtime_ns
    assert run_row(study, "none", 0) == result
    assert file.with_name("backbone.pt").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_rows_with_masks_have_their_caches_made_and_scored(study):
    pasted = run_row(study, "rbd", 0)
    assert "untrained" not in pasted and "masks-rbd-128" in pasted["command"]
    run_row(study, "truth", 0)
    scores = mask_scores(study, {})
    assert scores["truth"] == {"MAE": 0.0, "IoU": 1.0} and scores["shuffled"]["IoU"] < 1
    assert scores["shuffled"]["IoU"] < scores["ellipse"]["IoU"] < scores["rbd"]["IoU"]


def test_rows_side_by_side_share_the_masks_that_one_makes(study):
    source, cache = study.images / "train", study.out / "masks-spectral-32"
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda _: make_masks(source, cache, "spectral", 32), range(2))
        assert set(made) == {str(cache)}


def test_photographs_are_given_other_backgrounds(study, tmp_path):
    for ours, theirs in (("train", "train"), ("val", "original")):
        shutil.copytree(study.images / theirs, tmp_path / "source" / ours)
    data = Data("imagenette", 1, stored=24, source=str(tmp_path / "source"))
    photographs = Study("e2", data, tmp_path / "out")
    prepare(photographs)
    copies = list(photographs.images.rglob("*.*"))
    assert len(copies) == len(list((tmp_path / "source").rglob("*.*"))) > 100
    before = copies[0].stat().st_mtime_ns
    prepare(photographs)
    assert copies[0].stat().st_mtime_ns == before  # copied once
    run_row(photographs, "none", 0)
    challenge(photographs)
    [(file, result)] = photographs.results("none").items()
    accuracy = result["measured"]["challenge"]
    assert set(accuracy) == {*VARIANTS, "bg_gap", "biased", "worst_group"}
    assert 0 <= accuracy["worst_group"] <= accuracy["biased"] <= 100
    assert accuracy["bg_gap"] == pytest.approx(accuracy["mixed_same"] - accuracy["mixed_rand"])
    assert "| mixed_next |" in markdown(gather(photographs, "x", {}))
    before = file.stat().st_mtime_ns
    challenge(photographs)
    assert file.stat().st_mtime_ns == before
