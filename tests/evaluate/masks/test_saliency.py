"""The metrics against pysodmetrics' own numbers; `evaluate saliency`: numbers, table, figures."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from evaluate.masks import saliency
from evaluate.masks.agreement import agreement
from evaluate.masks.metrics import curves, nearest_foreground, score, summarise
from evaluate.published import ECSSD, saliency_check
from tests.conftest import refused
from tests.evaluate.folders import evaluate

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "pysodmetrics.npz")
MAPS = [(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in range(14)]


def test_scores_and_curves_are_the_references_and_agreement_by_hand():
    each = {f"scores{i}": [pair] for i, pair in enumerate(MAPS)}
    for name, pairs in (each | {"together": MAPS}).items():
        values = summarise([score(*pair) for pair in pairs])
        expected = dict(zip(FIXTURE["names"], FIXTURE[name], strict=True))
        assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-4), name
        assert summarise([score(*pair, nearest_foreground(pair[1])) for pair in pairs]) == values
    drawn = curves([score(*pair) for pair in MAPS])
    assert drawn.pop("threshold") == list(range(255, -1, -1))
    assert np.allclose([drawn[name] for name in FIXTURE["curve_names"]], FIXTURE["curves"], 0, 1e-4)
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


def scores(folder, **options) -> dict:
    places = {"images": str(folder / "images"), "truth": str(folder / "truth")}
    options = {**places, "examples": 0, "workers": 0, **options}
    return saliency.evaluate(saliency.Arguments(**options))


def test_estimators_are_scored_and_drawn(folder, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    places = f"--images {folder}/images --truth {folder}/truth --json {out}"
    result = evaluate(f"saliency {places} --estimator rbd,centre --limit 4 --examples 2")
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
    result = scores(folder, **places)
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
    result = scores(folder, maps=str(maps))
    assert result["count"] == 3 and result["estimators"][str(maps)]["mae"] == 0
    line = "left out 2: map: of another size than its image (003.png ...)"
    assert line in saliency.lines(result) and len(result["left_out"]) == 2
    (maps / "001.png").write_bytes(b"")
    (maps / "002.png").unlink()
    said = refused(scores, folder, maps=str(maps))
    assert "only 1 of 6 images " in said and "left out 1: map: a colour pict" in said


def test_masks_beside_their_images_are_no_images(folder, tmp_path):
    """MSRA10K's layout: x.jpg and x.png in one folder; an image without a mask is counted."""
    for file in (folder / "images").iterdir():
        cv2.imwrite(str(tmp_path / f"{file.stem}.jpg"), cv2.imread(str(file)))
    for file in list((folder / "truth").iterdir())[1:]:
        shutil.copy(file, tmp_path)
    places = {"images": str(tmp_path), "truth": str(tmp_path), "estimator": "centre"}
    result = scores(folder, **places)
    assert result["count"] == 5 and len(result["left_out"]["true mask: none"]) == 1
    shutil.copy(tmp_path / result["paths"][0], tmp_path / result["paths"][0].replace("jpg", "bmp"))
    assert "is the true mask of both " in refused(scores, folder, **places)


def test_halves_and_workers_agree(folder):
    for half, names in (("even", "000 002 004"), ("odd", "001 003 005")):
        result = scores(folder, estimator="ft", half=half)
        assert " ".join(result["paths"]).replace(".png", "") == names
    both = [scores(folder, estimator="ft", workers=workers) for workers in (0, 2)]
    one, two = (result["estimators"]["ft"] | {"ms": 0} for result in both)
    assert one == two


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
    masks = str(shared / "ecssd/masks")
    rows = scores(shared / "ecssd", truth=masks, workers=1, estimator="ft,mr,rbd")["published"]
    assert len(rows) == 8 and all(row["agrees"] for row in rows)
