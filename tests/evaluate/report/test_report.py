"""The page holds the numbers of the JSONs, loads nothing, escapes everything, and leaves out what
it cannot read."""

import base64
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from data.cli import UsageError
from data.io import lock
from evaluate import report
from evaluate.common import command
from evaluate.report.page import page
from evaluate.report.runs import collect, short_names

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}<script>alert(2)<\\script>"


class Page(BeautifulSoup):
    """A report, with its tables by the heading or summary above."""

    def __init__(self, text: str):
        super().__init__(text, "html.parser")

    def rows(self, heading: str) -> list[list]:
        """All rows of the tables below a heading, each a list of cells."""
        titles = [t for t in self(["h2", "summary"]) if t.text == heading]
        tables = [title.find_next("table") for title in titles]
        return [row(["th", "td"]) for table in tables for row in table("tr")[1:]]

    def table(self, heading: str) -> dict[tuple[str, ...], list[str]]:
        """First cells -> texts of the numbers."""
        cells = [[(c.get("class") == ["text"], c.text) for c in row] for row in self.rows(heading)]
        return {
            tuple(text for is_text, text in row if is_text): [
                t for is_text, t in row if not is_text
            ]
            for row in cells
        }


def write(folder, config=None, **results):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in results.items():
        content = {"evaluation": name.replace("_", "-"), **content}
        (folder / f"{name}.json").write_text(json.dumps(content))
    if config:
        (folder / "config.json").write_text(json.dumps({"identity": {}, "config": config}))
    return str(folder)


def linear(top1: float, deviation: float, **protocol) -> dict:
    return {
        "protocol": {"lr": 30.0, "epochs": 100, **protocol},
        "accuracy": {"top-1": top1, "top-5": top1 + 20, "per_class": {"cat": 60.5, "dog": 71.25}},
        "deviation": {"top-1": deviation, "top-5": 0.5, "per_class": {"cat": 1.5, "dog": 2.0}},
    }


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a baseline, and DiLo's run with more evaluations."""
    paths = []
    for seed, top1 in ((0, 61.0), (1, 64.0)):
        config = {"method": "moco", "seed": seed, "out": f"x{seed}", "epochs": 2}
        knn = {"accuracy": {"200": 40.0 + seed, "head 20": 30.5}}
        folder = tmp_path / f"base-s{seed}"
        paths.append(write(folder, config, linear=linear(top1, 0.125), knn=knn))
    ryali = {"model": "MoCo v2", "source": "Ryali: second-hand", "mixed_rand": 70.7}
    challenge = {
        "accuracy": {"head": {"mixed_same": 80.0, "mixed_rand": 60.5, "bg_gap": 19.5}},
        "per_class": {"head": {"mixed_rand": {"00_dog": 55.0}}},
        "published": [ryali],
    }
    box = {"AP": 50.5, "AP50": 80.0, "per_class": {"cat": 9.0}}
    detection = {
        "accuracy": {"box": box, "voc07": {"AP": 51.0}},
        "deviation": {"box": {"AP": 0.25, "AP50": 0.5, "per_class": {"cat": 1.0}}},
    }
    few = {"accuracy": {"1% linear": {"top-1": 12.5}, "10% linear": {"top-1": 45.25}}}
    config = {"method": "moco", "seed": 0, "epochs": 3}
    results = {"linear": linear(70.0, 0.25, epochs=50), "few": few, "in9": challenge}
    paths.append(write(tmp_path / "dilo", config, **results, detection_voc_c4=detection))
    return paths


def made(paths, **options) -> Page:
    found, notes = collect(paths)
    return Page(page(found, notes, "Results", **options))


def test_numbers_are_those_of_the_files(runs):
    shown = made(runs)
    heading = "Linear classification, MoCo's protocol: %"
    table = shown.table(heading)
    assert table["base-s0",] == ["61.00 ± 0.12", "81.00 ± 0.50"]
    assert table["dilo",] == ["70.00 ± 0.25", "90.00 ± 0.50"]
    mean, deviation = np.mean([61, 64]), np.std([61, 64], ddof=1)
    assert table["mean: base-s0, base-s1",][0] == f"{mean:.2f} ± {deviation:.2f}"
    assert shown.table("per class")["dog",] == ["71.25 ± 2.00"] * 3
    assert shown.table("Nearest neighbours: top-1, %")["base-s1",] == ["41.00", "30.50"]
    heads = [head.text for head in shown.find(id="evaluation-1").thead("th")]
    assert heads == ["run", "backbone, k = 200", "head, k = 20"]
    few = {("dilo", "1% linear"): ["12.50"], ("dilo", "10% linear"): ["45.25"]}
    assert shown.table("Few labels: %") == few
    challenge = shown.table("ImageNet-9: %")
    assert challenge["dilo", "head"] == ["80.00", "60.50", "19.50"]
    assert challenge["MoCo v2", "Ryali: second-hand"] == ["–", "70.70", "–"]
    assert shown.table("per class")["head / mixed_rand / 00_dog",] == ["55.00"]
    assert "The protocols differ in epochs: compare with care." in shown.text
    assert shown.table("Detection, voc c4: AP, %") == {
        ("dilo", "box"): ["50.50 ± 0.25", "80.00 ± 0.50"],
        ("dilo", "voc07"): ["51.00", "–"],
    }
    assert shown.table("box per class")["cat",] == ["9.00 ± 1.00"]


def test_one_file_of_several_estimators_or_runs(runs, tmp_path):
    """As `evaluate saliency` and `evaluate diagnose` write them."""
    rbd = {"mae": 0.17094, "s": 0.6893, "version": 3, "curves": {"recall": [0.0, 1.0]}}
    estimators = {"rbd": rbd, "ft": {"mae": 0.2958, "s": 0.4662, "parameters": {"k": 2}}}
    numbers = {
        run: {
            "accuracy": {"share": 40.0 + i, "knn": 12.345},
            "maps": {"knn": {"gradcam": {"iou": 33.0 + i}}},
            "neighbours": {"wrong": 7},
        }
        for i, run in enumerate((runs[2], "/elsewhere/x"))
    }
    several = {"evaluation": "diagnose", "chance": {"share": 25.0}, "runs": numbers}
    for name, content in (("saliency", {"estimators": estimators}), ("diagnose", several)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    shown = made([*runs, str(tmp_path / "saliency.json"), str(tmp_path / "diagnose.json")])
    scores = {("saliency", "rbd"): ["0.1709", "0.6893"], ("saliency", "ft"): ["0.2958", "0.4662"]}
    assert shown.table("Saliency") == scores
    expected = {("dilo",): ["40.00", "12.35"], ("x",): ["41.00", "12.35"]}
    shares = shown.table("Does it look at the object? %")
    assert shares == {**expected, ("chance",): ["25.00", "–"]}
    assert shown.table("maps")["knn / gradcam / iou",] == ["33.00", "34.00"]


def test_nothing_is_loaded(runs):
    Path(runs[0], "log.jsonl").write_text('{"epoch": 1, "loss": 2}\n{"epoch": 2, "loss": 1}\n')
    shown = made(runs)
    loading = {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "image"}
    assert not shown(list(loading))
    for element in shown(True):
        for key, value in element.attrs.items():
            assert not key.startswith("on") and "url(" not in str(value).replace("url(#", "")
            if key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value.startswith(("#", "data:image/webp;base64,"))
    (script,) = [element.text for element in shown("script")]
    assert not re.search("http|fetch|import", script)
    assert not any(re.search(r"url\(|@import", style.text) for style in shown("style"))
    policy = shown.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    viewport = shown.find("meta", {"name": "viewport"})["content"]
    assert viewport == "width=device-width, initial-scale=1"
    assert {a["href"][1:] for a in shown("a")} == {section["id"] for section in shown("section")}


def test_hostile_names_change_no_element(tmp_path):
    def build(root, name):
        accuracy = {"top-1": 1.0, name: 2.0, "per_class": {name: 3.0}}
        published = [{"model": name, "source": name, "x": 2.0}]
        folder = root / name
        write(
            folder,
            {"method": name, "seed": 1, "masks": name, "images": name},
            linear={"protocol": {name: name, "lr": [name]}, "accuracy": accuracy},
            few={"accuracy": {name: {"top-1": 5.0}}},
            in9={"accuracy": {"head": {"x": 1}}, "published": published},
        )
        odd = {"evaluation": name, "accuracy": {"a": 1.0}}
        (folder / f"{name}.json").write_text(json.dumps(odd))
        (folder / "log.jsonl").write_text(json.dumps({"epoch": 1, name: 1.0}) + "\n")
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
        (folder / "broken.json").write_text("{")
        return made([str(folder)])

    plain, hostile = build(tmp_path / "a", "plain"), build(tmp_path / "b", HOSTILE)
    names = [[(e.name, sorted(e.attrs)) for e in shown(True)] for shown in (plain, hostile)]
    assert names[0] == names[1] and len(hostile("script")) == 1
    assert HOSTILE in [bdi.text for bdi in hostile("bdi")]
    assert hostile.table("Few labels: %") == {(HOSTILE, HOSTILE): ["5.00"]}


def test_bytes_that_are_no_text_and_turned_text(tmp_path, capsys):
    folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"run-\xff\xe2\x80\xae"))
    os.mkdir(folder)
    with open(os.path.join(folder, "knn.json"), "w") as file:
        json.dump({"evaluation": "knn", "accuracy": {"20": 1.5}}, file)
    with open(os.path.join(folder, "log.jsonl"), "wb") as file:
        file.write(b'{"epoch": 1, "loss": 3}\n{"epoch": 2, "l\xff": 2}\n{"epoch": 3, "lo')
    out = tmp_path / "r.html"
    command("report", report, [folder, "--out", str(out)])
    shown = Page(out.read_text(encoding="utf-8"))
    assert shown.bdi.text == "run-\ufffd\ufffd" and len(shown("figure")) == 2
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_left_out_with_a_note(runs, tmp_path, capsys):
    secret = {"evaluation": "knn", "accuracy": {"20": 99.0}}
    (tmp_path / "secret.json").write_text(json.dumps(secret))
    broken = tmp_path / "dilo"
    (broken / "a.json").write_text("{")
    (broken / "b.json").write_text("[1]")
    (broken / "c.json").write_text("[" * 100000)
    (broken / "d.json").write_text('{"x": 1}')
    (broken / "e.json").write_text('{"evaluation": 3}')
    (broken / "f.json").write_bytes(b"\xff\xfe")
    (broken / "g.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(broken / "h.json")
    (broken / "._linear.json").write_bytes(b"a system's own file")
    (broken / "odd.json").write_text(
        '{"evaluation": "odd", "accuracy": {"x": NaN, "y": 1e999, "z": 4, "w": "5", '
        f'"v": null, "u": 1{"0" * 400}}}}}'
    )
    (broken / "picture.png").write_bytes(b"no picture")
    out = tmp_path / "new" / "report.html"
    command("report", report, [*runs, "--out", str(out)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 9 and all(line.startswith("left out: ") for line in lines)
    shown = Page(out.read_text())
    notes = [note.text for note in shown.find(class_="notes")("li")]
    assert [re.search(r"dilo/(\w+)\.", note)[1] for note in notes] == [*"abcdefgh", "picture"]
    assert shown.table("odd") == {("dilo",): ["4.00"]} and "99.00" not in out.read_text()


def test_bad_input_and_a_page_that_another_process_writes(runs, tmp_path):
    for argv, message in (([str(tmp_path / "no")], "no: no such run folder"), ([], "at least one")):
        with pytest.raises(UsageError, match=message):
            command("report", report, argv)
    with lock(tmp_path / ".x.html.lock"), pytest.raises(UsageError, match="another process"):
        command("report", report, [*runs, "--out", str(tmp_path / "x.html")])


def test_names_have_as_much_of_their_path_as_needed(tmp_path):
    paths = [tmp_path / p for p in ("a/x", "b/x", "b/y", "b/z.json")]
    assert short_names(paths) == ["a/x", "b/x", "y", "z"]
    assert short_names([tmp_path / "x", tmp_path / "x"])[0].endswith("x")


def test_curves_are_the_logs_points(tmp_path):
    epochs, losses = np.array([0, 1, 2, 4.0]), np.array([3, 1, 2, 0.5])
    for name, repeats in (("run", 1), ("long", 500)):
        (tmp_path / name).mkdir()
        values = zip(np.repeat(epochs, repeats), np.tile(losses, repeats), strict=True)
        rows = [{"step": i, "epoch": e, "loss": x, "bad": "x"} for i, (e, x) in enumerate(values)]
        text = "\n".join(map(json.dumps, rows)) + "\n[1]\n3\n"
        (tmp_path / name / "log.jsonl").write_text(text)
    shown = made([str(tmp_path / "run"), str(tmp_path / "long")])
    assert len(shown("figure")) == 1  # neither step nor text is a curve
    lines = [a["d"] for a in shown("path") if "stroke: var(--line" in a.get("style", "")]
    x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", lines[0]), float).T
    for drawn, expected in ((x, epochs), (y, losses)):
        fit = np.polyval(np.polyfit(expected, drawn, 1), expected)
        assert len(drawn) == 4 and np.abs(drawn - fit).max() < 1e-3
    assert lines[1].count("L") <= 300


def decoded(attributes: dict) -> np.ndarray:
    content = base64.b64decode(attributes["src"].partition(",")[2])
    return np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_pictures_are_inside_and_made_small(tmp_path):
    folder = tmp_path / "run"
    write(folder, knn={"accuracy": {"20": 1.0}})
    values = np.linspace(0, 255, 2400).astype(np.uint8)[None, :, None]
    ramp = np.broadcast_to(values, (300, 2400, 3))
    Image.fromarray(ramp).save(folder / "heat.png")
    Image.fromarray(ramp[:40, :60]).save(folder / "first_batch.png")
    shown = made([str(folder)])("img")
    assert [a["alt"] for a in shown] == ["first_batch.png", "heat.png"]
    large = decoded(shown[1])
    assert large.shape == (150, 1200, 3) and np.abs(large - ramp[::2, ::2]).mean() < 3
    assert made([str(folder)], figures=0)("img") == []


def test_masks_of_the_runs_cache(truth_cache, images, tmp_path):
    train = images / "train"
    run = write(tmp_path / "run", {"masks": str(truth_cache), "images": str(train), "seed": 0})
    shown = made([run], masks=3)("img")
    assert len(shown) == 3
    for attributes in shown:
        image, mask, kept = np.split(decoded(attributes), 3, axis=1)
        truth, true_mask = (
            np.array(Image.open(folder / attributes["alt"]).resize(image.shape[1::-1])).astype(int)
            for folder in (train, images / "masks")
        )
        assert np.abs(image - truth).mean() < 12 and np.abs(mask[..., 0] - true_mask).mean() < 12
        inside, outside = true_mask > 250, true_mask < 5
        assert np.abs(kept - image)[inside].mean() < 15 < np.abs(kept - image)[outside].mean()
    other = write(tmp_path / "other", {"masks": str(tmp_path), "images": str(train), "seed": 0})
    found, notes = collect([other])
    page(found, notes, "x")
    assert len(notes) == 1 and "no masks to show" in notes[0]
