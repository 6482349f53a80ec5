"""The metrics against pysodmetrics' own numbers; `evaluate saliency`: numbers, table, figures, and
the one line on bad input."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.cli import UsageError
from evaluate.common import command
from evaluate.masks import saliency
from evaluate.masks.agreement import agreement
from evaluate.masks.metrics import curves, nearest_foreground, score, summarise
from evaluate.masks.saliency import Arguments, evaluate
from evaluate.published import ECSSD, saliency_check

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "pysodmetrics.npz")
MAPS = [(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in range(14)]
SETS = {f"scores{i}": [pair] for i, pair in enumerate(MAPS)} | {"together": MAPS}


@pytest.mark.parametrize("name", SETS)
def test_scores_are_the_references(name):
    values = summarise([score(*pair) for pair in SETS[name]])
    expected = dict(zip(FIXTURE["names"], FIXTURE[name], strict=True))
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    shared = [score(*pair, nearest_foreground(pair[1])) for pair in SETS[name]]
    assert summarise(shared) == values


def test_curves_are_the_references():
    drawn = curves([score(*pair) for pair in MAPS])
    assert drawn.pop("threshold") == list(range(255, -1, -1))
    assert np.allclose([drawn[name] for name in FIXTURE["curve_names"]], FIXTURE["curves"], 0, 1e-4)


def test_agreement_by_hand():
    mask, truth, empty = np.array([[255, 255, 0, 0], [255, 51, 0, 0], 4 * [0]], np.uint8)
    found = agreement([(mask, truth), (empty, empty)])
    assert found == pytest.approx({"mae": 0.1, "iou": 0.75})


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """Six scenes, 000 to 005, their true masks, and the masks again as maps."""
    root = tmp_path_factory.mktemp("saliency")
    for name, source in (("images", "train"), ("truth", "masks"), ("maps", "masks")):
        (root / name).mkdir()
        for i in range(6):
            shutil.copy(images / source / f"class{i % 2}" / f"{i:03d}.png", root / name)
    return root


def arguments(folder, **options) -> Arguments:
    places = {"images": str(folder / "images"), "truth": str(folder / "truth")}
    return Arguments(**{**places, "examples": 0, "workers": 0, **options})


def test_estimators_are_scored_and_drawn(folder, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    places = ["--images", str(folder / "images"), "--truth", str(folder / "truth")]
    options = ["--estimator", "rbd,centre", "--limit", "4", "--examples", "2", "--json", str(out)]
    command("saliency", saliency, places + options)
    result = json.loads(out.read_text())
    assert result["count"] == 4 and result["published"] == []  # it is not ECSSD
    for file in (out.with_suffix(".png"), out.with_name("scores-curves.png")):
        assert cv2.imread(str(file)).shape[0] > 100
    rbd, centre = result["estimators"]["rbd"], result["estimators"]["centre"]
    assert rbd["mae"] < 0.05 < centre["mae"] and rbd["ms"] > 0
    assert rbd["max_f_b"] > 0.95 > centre["max_f_b"]
    assert rbd["parameters"]["superpixels"] == 200
    assert "| rbd | .0" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["truth", "maps"])
def test_maps_and_true_masks_of_other_tools(folder, tmp_path, side):
    """Of 0 and 1, stored upside down, as EXIF says; the others plain."""
    for file in (folder / "truth").iterdir():
        picture = Image.fromarray(np.array(Image.open(file))[::-1, ::-1] // 255)
        picture.getexif()[0x0112] = 3
        picture.save(tmp_path / file.name, exif=picture.getexif())
    places = {"truth": str(folder / "truth"), "maps": str(folder / "maps"), side: str(tmp_path)}
    result = evaluate(arguments(folder, **places))
    entry = result["estimators"][places["maps"]]
    assert result["count"] == 6 and entry["mae"] == 0 and entry["s"] == pytest.approx(1)
    assert "ms" not in entry
    assert saliency.lines(result)[0].startswith("| estimator | MAE | maxF(a) |")


def test_bad_maps_are_counted_by_reason(folder, tmp_path):
    maps = tmp_path / "maps"
    shutil.copytree(folder / "maps", maps)
    shutil.copy(folder / "images" / "000.png", maps)  # a photograph
    for name, shape in (("003.png", (5, 5)), ("004.png", (5, 7))):
        cv2.imwrite(str(maps / name), np.zeros(shape, np.uint8))
    result = evaluate(arguments(folder, maps=str(maps)))
    assert result["count"] == 3 and result["estimators"][str(maps)]["mae"] == 0
    line = "left out 2: map: of another size than its image (003.png ...)"
    assert line in saliency.lines(result) and len(result["left_out"]) == 2
    (maps / "001.png").write_bytes(b"")
    (maps / "002.png").unlink()
    with pytest.raises(UsageError, match=r"only 1 of 6 images .*: left out 1: map: a colour pict"):
        evaluate(arguments(folder, maps=str(maps)))


def test_halves_and_workers_agree(folder):
    for half, names in (("even", "000 002 004"), ("odd", "001 003 005")):
        result = evaluate(arguments(folder, estimator="ft", half=half))
        assert " ".join(result["paths"]).replace(".png", "") == names
    both = [evaluate(arguments(folder, estimator="ft", workers=workers)) for workers in (0, 2)]
    one, two = (result["estimators"]["ft"] | {"ms": 0} for result in both)
    assert one == two


BAD = {"no estimator 'rdb'": {"estimator": "rdb"}, "either --estimator": {"estimator": ""}}
BAD |= {"/nowhere: no such folder": {"truth": "/nowhere"}, "no refinement": {"refine": "crf"}}
BAD |= {"/nowhere/img": {"images": "/nowhere/img"}, "--limit": {"limit": 0}}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(folder, message):
    with pytest.raises(UsageError, match=message):
        evaluate(arguments(folder, **{"estimator": "centre", **BAD[message]}))


def test_published_scores_are_compared_on_all_of_ecssd_only():
    entry = {key: known["published"] for key, known in ECSSD["rbd"].items()}
    entry["mae"] += 0.03
    paths = [f"{i:04d}.jpg" for i in range(1, 1001)]
    result = {"paths": paths, "refine": "none", "estimators": {"rbd": entry, "x": {}}}
    agree = {row["metric"]: row["agrees"] for row in saliency_check(result)}
    assert agree == {"adaptive_f": True, "mae": False, "max_f_a": True, "adaptive_iou": True}
    assert saliency_check({**result, "paths": paths[:-1]}) == []
    assert saliency_check({**result, "refine": "guided"}) == []


@pytest.mark.slow
def test_scores_agree_with_published_ones_on_ecssd(shared):
    places = {"images": str(shared / "ecssd/images"), "truth": str(shared / "ecssd/masks")}
    rows = evaluate(Arguments(**places, examples=0, estimator="ft,mr,rbd"))["published"]
    assert len(rows) == 8 and all(row["agrees"] for row in rows)
