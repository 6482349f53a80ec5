"""`evaluate saliency`: numbers, table, figure and the one line on bad input."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cli import UsageError
from evaluate.masks.saliency import main, run, table
from evaluate.published import ECSSD, saliency_check

SHARED = Path(os.environ.get("DILO_SHARED", "../shared"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of a disc with their true masks, 0001 to 0006, and the masks again as maps."""
    root = tmp_path_factory.mktemp("saliency")
    for name in ("images", "truth", "maps"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :120]
    for index in range(1, 7):
        disc = (y - rng.uniform(35, 55)) ** 2 + (x - rng.uniform(45, 75)) ** 2 < rng.uniform(
            15, 22
        ) ** 2
        image = np.where(disc[..., None], (40, 60, 190), (150, 170, 160)) + rng.normal(
            0, 5, (90, 120, 3)
        )
        cv2.imwrite(
            str(root / "images" / f"{index:04d}.jpg"), np.clip(image, 0, 255).astype(np.uint8)
        )
        cv2.imwrite(str(root / "truth" / f"{index:04d}.png"), disc.astype(np.uint8) * 255)
        cv2.imwrite(str(root / "maps" / f"{index:04d}.png"), disc.astype(np.uint8) * 255)
    return root


def test_estimators_are_scored_and_drawn(folder, tmp_path):
    out = tmp_path / "new" / "scores.json"
    code = main(
        [
            "--images",
            str(folder / "images"),
            "--truth",
            str(folder / "truth"),
            "--estimator",
            "rbd,centre",
            "--limit",
            "4",
            "--examples",
            "2",
            "--json",
            str(out),
        ]
    )
    result = json.loads(out.read_text())
    assert code == 0 and result["count"] == 4 and out.with_suffix(".png").stat().st_size > 1000
    rbd, centre = result["estimators"]["rbd"], result["estimators"]["centre"]
    assert (
        rbd["mae"] < 0.05 < centre["mae"]
        and rbd["max_f_b"] > 0.95 > centre["max_f_b"]
        and rbd["ms"] > 0
    )
    assert rbd["parameters"]["superpixels"] == 200 and result["published"] == []  # it is not ECSSD
    assert rbd["weighted_f"] > 0.9 > centre["weighted_f"] and rbd["iou"] > 0.8 > centre["iou"]
    assert out.with_name("scores-curves.png").stat().st_size > 1000
    assert max(rbd["curves"]["f"]) == pytest.approx(rbd["max_f_a"], abs=1e-6)
    assert rbd["curves"]["recall"][-1] == 1  # everything is found at threshold 0


def test_maps_on_disk(folder):
    result = run(str(folder / "images"), str(folder / "truth"), maps=str(folder / "maps"))
    entry = result["estimators"][str(folder / "maps")]
    assert entry["mae"] == 0 and entry["max_f_a"] == pytest.approx(1) and "ms" not in entry
    assert "| MAE |" in table(result)


def test_halves_and_workers_agree(folder):
    both = [
        run(str(folder / "images"), str(folder / "truth"), ["ft"], half=half)
        for half in ("even", "odd")
    ]
    assert [r["paths"] for r in both] == [
        [f"{i:04d}.jpg" for i in (2, 4, 6)],
        [f"{i:04d}.jpg" for i in (1, 3, 5)],
    ]
    one, two = (
        run(str(folder / "images"), str(folder / "truth"), ["ft"], workers=n)["estimators"]["ft"]
        for n in (1, 2)
    )
    assert {k: v for k, v in one.items() if k != "ms"} == {
        k: v for k, v in two.items() if k != "ms"
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "rdb"}, "no estimator 'rdb'"),
        ({"estimator": ""}, "either --estimator"),
        ({"images": "/nowhere"}, "/nowhere"),
        ({"truth": "/nowhere"}, "/nowhere: no such folder"),
        ({"refine": "crf"}, "no refinement"),
        ({"half": "left"}, "--half"),
        ({"limit": "0"}, "--limit"),
    ],
)
def test_bad_input(folder, tmp_path, change, message):
    options = {
        "images": str(folder / "images"),
        "truth": str(folder / "truth"),
        "estimator": "centre",
        "json": str(tmp_path / "x.json"),
        **change,
    }
    with pytest.raises(UsageError, match=message):
        main([part for key, value in options.items() for part in (f"--{key}", value)])


def test_a_mask_of_another_size_is_named(folder, tmp_path):
    (tmp_path / "0001.png").write_bytes(
        cv2.imencode(".png", np.zeros((5, 5), np.uint8))[1].tobytes()
    )
    with pytest.raises(UsageError, match=r"0001\.png: true mask of 5x5"):
        run(str(folder / "images"), str(tmp_path), ["centre"])


def test_published_scores_are_compared_on_all_of_ecssd_only():
    entry = {
        metric: value + 0.03 * (metric == "mae") for metric, (value, _) in ECSSD["rbd"].items()
    }
    paths = [f"{i:04d}.jpg" for i in range(1, 1001)]
    result = {"paths": paths, "refine": "none", "estimators": {"rbd": entry, "x": {}}}
    assert [(row["metric"], row["agrees"]) for row in saliency_check(result)] == [
        ("adaptive_f", True),
        ("mae", False),
        ("max_f_a", True),
        ("adaptive_iou", True),
    ]
    assert saliency_check({**result, "paths": result["paths"][:-1]}) == []
    assert saliency_check({**result, "refine": "guided"}) == []


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "data/ecssd").is_dir(), reason=f"no ECSSD under DILO_SHARED ({SHARED}/data/ecssd)"
)
def test_scores_agree_with_published_ones_on_ecssd():
    ecssd = SHARED / "data/ecssd"
    rows = run(str(ecssd / "images"), str(ecssd / "masks"), ["ft", "mr", "rbd"])["published"]
    assert len(rows) == 8
    assert not [row for row in rows if not row["agrees"]]


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "data/ecssd").is_dir(), reason=f"no ECSSD under DILO_SHARED ({SHARED}/data/ecssd)"
)
def test_rbd_is_as_accurate_as_the_authors_on_ecssd():
    ecssd = SHARED / "data/ecssd"
    found = run(str(ecssd / "images"), str(ecssd / "masks"), ["rbd"], limit=250)["estimators"][
        "rbd"
    ]
    reference = {
        "mae": 0.1714,
        "max_f_a": 0.672,
        "max_f_b": 0.716,
        "mean_f": 0.562,
        "adaptive_f": 0.676,
        "s": 0.688,
        "mean_e": 0.654,
    }
    for name, value in reference.items():
        loss = (found[name] - value) * (1 if name == "mae" else -1)
        assert loss < 0.03, (
            name
        )  # 0.015 on all 1,000 images (make bench-saliency); a quarter of them scatters more
