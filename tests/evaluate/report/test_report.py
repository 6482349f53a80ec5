"""The page has the JSONs' numbers, loads nothing, escapes all, leaves out what it cannot read."""

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

from evaluate.report.page import page
from evaluate.report.runs import collect, short_names
from tests.evaluate.folders import evaluate

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}<script>alert(2)<\\script>"


def table(page: BeautifulSoup, heading: str) -> dict[tuple[str, ...], list[str]]:
    """First cells -> texts of the numbers, of all tables below a heading or summary."""
    rows = {}
    for title in page(lambda tag: tag.name in ("h2", "summary") and tag.text == heading):
        for row in title.find_next("table").tbody("tr"):
            texts = row(class_="text")
            numbers = [cell.text for cell in row(["th", "td"]) if cell not in texts]
            rows[tuple(cell.text for cell in texts)] = numbers
    return rows


def shown(*paths: Path, **options) -> BeautifulSoup:
    return BeautifulSoup(page(*collect(paths), "Results", **options), "html.parser")


def write(folder: Path, config: dict | None = None, **results: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in results.items():
        (folder / f"{name}.json").write_text(json.dumps({"evaluation": name, **content}))
    if config:
        (folder / "config.json").write_text(json.dumps({"identity": {}, "config": config}))
    return folder


def linear(top1: float, epochs: int) -> dict:
    return {
        "protocol": {"lr": 30.0, "epochs": epochs},
        "accuracy": {"top-1": top1, "top-5": top1 + 20, "per_class": {"cat": 60.5, "dog": 71.25}},
        "deviation": {"top-1": 0.125, "top-5": 0.5, "per_class": {"cat": 1.5, "dog": 2.0}},
    }


@pytest.fixture
def runs(tmp_path):
    """Two seeds of a baseline, and DiLo's run with more evaluations."""
    paths = []
    for seed, top1 in ((0, 61.0), (1, 64.0)):
        config = {"method": "moco", "seed": seed, "out": f"x{seed}", "epochs": 2}
        results = {"linear": linear(top1, 100)}
        results["knn"] = {"accuracy": {"200": 40.0 + seed, "head 20": 30.5}}
        paths.append(write(tmp_path / f"base-s{seed}", config, **results))
    challenge = {
        "accuracy": {"head": {"mixed_same": 80.0, "mixed_rand": 60.5, "bg_gap": 19.5}},
        "per_class": {"head": {"mixed_rand": {"00_dog": 55.0}}},
        "published": [{"model": "MoCo v2", "source": "second-hand", "mixed_rand": 70.7}],
    }
    config = {"method": "moco", "seed": 0, "epochs": 3}
    return [*paths, write(tmp_path / "dilo", config, linear=linear(70.0, 50), in9=challenge)]


def test_numbers_are_those_of_the_files(runs):
    found = shown(*runs)
    numbers = table(found, "Linear classification, MoCo's protocol: %")
    assert numbers["base-s0",] == ["61.00 ± 0.12", "81.00 ± 0.50"]
    assert numbers["mean: base-s0, base-s1",][0] == f"62.50 ± {np.std([61, 64], ddof=1):.2f}"
    details = table(found, "per class")
    assert details["dog",] == ["71.25 ± 2.00"] * 3
    assert details["head / mixed_rand / 00_dog",] == ["55.00"]
    assert table(found, "Nearest neighbours: top-1, %")["base-s1",] == ["41.00", "30.50"]
    heads = [head.text for head in found.find(id="evaluation-1").thead("th")]
    assert heads == ["run", "backbone, k = 200", "head, k = 20"]
    rows = table(found, "ImageNet-9: %")
    assert rows["dilo", "head"] == ["80.00", "60.50", "19.50"] and len(rows) == 2
    assert rows["MoCo v2", "second-hand"] == ["–", "70.70", "–"]
    assert "The protocols differ in epochs: compare with care." in found.text


def test_one_file_of_several_estimators_or_runs(runs, tmp_path):
    rbd = {"mae": 0.17094, "s": 0.6893, "version": 3, "curves": {"recall": [0.0, 1.0]}}
    estimators = {"rbd": rbd, "ft": {"mae": 0.2958, "s": 0.4662, "parameters": {"k": 2}}}
    numbers = {
        str(run): {"accuracy": {"share": share}, "maps": {"knn": {"gradcam": {"iou": share - 7}}}}
        for run, share in ((runs[2], 40.0), ("/elsewhere/x", 41.0))
    }
    numbers["/elsewhere/x"]["chance"] = {"share": 26.0}  # of another image size
    write(tmp_path, saliency={"estimators": estimators})
    write(tmp_path, diagnose={"chance": {"share": 25.0}, "runs": numbers})
    found = shown(runs[2], tmp_path / "saliency.json", tmp_path / "diagnose.json")
    scores = {("saliency", "rbd"): ["0.1709", "0.6893"], ("saliency", "ft"): ["0.2958", "0.4662"]}
    assert table(found, "Saliency") == scores
    shares = {("dilo",): ["40.00"], ("x",): ["41.00"]}
    chances = {("chance, dilo",): ["25.00"], ("chance, x",): ["26.00"]}
    assert table(found, "Does it look at the object? %") == shares | chances
    assert table(found, "maps")["knn / gradcam / iou",] == ["33.00", "34.00"]
    paths = [tmp_path / name for name in ("a/x", "b/x", "b/y", "b/z.json")]
    assert short_names(paths) == ["a/x", "b/x", "y", "z"]


def test_results_that_do_not_compare_have_their_own_rows_and_no_mean(runs):
    other = linear(90.0, 100) | {"evaluation": "linear", "data": "other"}
    found = shown(runs[0], write(runs[1], again=other))
    rows = table(found, "Linear classification, MoCo's protocol: %")
    own = "base-s0", "base-s1 (linear)", "base-s1 (again)", "mean: base-s0, base-s1 (linear)"
    assert set(rows) == {(name,) for name in own}
    assert "The protocols differ in data: compare with care." in found.text


def page_of_names(root: Path, name: str) -> BeautifulSoup:
    """A page with all sections of a run in whose files and results everything has one name."""
    accuracy = {"top-1": 1.0, name: 2.0, "per_class": {name: 3.0}}
    published = [{"model": name, "source": name, "x": 2.0}]
    config = {"method": name, "seed": 1, "masks": name, "images": name}
    linear = {"protocol": {name: name, "lr": [name]}, "accuracy": accuracy}
    in9 = {"accuracy": {"head": {"x": 1}}, "published": published}
    few, odd = {"accuracy": {name: {"top-1": 5.0}}}, {"evaluation": name, "accuracy": {"a": 1.0}}
    folder = write(root / name, config, linear=linear, few=few, in9=in9, **{name: odd})
    (folder / "log.jsonl").write_text(json.dumps({"epoch": 1, name: 1.0}) + "\n")
    Image.new("RGB", (2400, 6)).save(folder / f"{name}.png")
    (folder / "broken.json").write_text("{")
    return shown(folder)


def test_hostile_names_change_no_element_and_nothing_is_loaded(tmp_path):
    plain, found = page_of_names(tmp_path / "a", "x"), page_of_names(tmp_path / "b", HOSTILE)
    elements = [[(e.name, sorted(e.attrs)) for e in one(True)] for one in (plain, found)]
    assert elements[0] == elements[1]
    assert HOSTILE in [bdi.text for bdi in found("bdi")] and found.img["width"] == "1200"
    assert table(found, "Few labels: %") == {(HOSTILE, HOSTILE): ["5.00"]}
    assert not found(re.compile("link|iframe|object|embed|base|form|audio|video|image"))
    for element in found(True):
        for key, value in element.attrs.items():
            assert not key.startswith("on") and "url(" not in str(value).replace("url(#", "")
            if key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value.startswith(("#", "data:image/webp;base64,"))
    (script,) = [element.text for element in found("script")]
    assert not re.search("http|fetch|import", script)
    assert not any(re.search(r"url\(|@import", style.text) for style in found("style"))
    policy = found.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    assert {a["href"][1:] for a in found("a")} == {section["id"] for section in found("section")}


def test_bytes_that_are_no_text_and_turned_text(tmp_path, capsys):
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"run-\xff\xe2\x80\xae")))
    write(folder, knn={"accuracy": {"20": 1.5}})
    log = b'{"epoch": 1, "loss": 3}\n{"epoch": 2, "l\xff": 2}\n{"epoch": 3, "lo'
    (folder / "log.jsonl").write_bytes(log)
    evaluate(f"report {folder} --out {tmp_path}/r.html")
    found = BeautifulSoup((tmp_path / "r.html").read_text("utf-8"), "html.parser")
    assert found.bdi.text == "run-\ufffd\ufffd" and len(found("figure")) == 2
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_left_out_with_a_note(tmp_path, capsys):
    run = write(tmp_path / "run")
    broken = (b"{", b"[1]", b"[" * 100000, b'{"x": 1}', b'{"evaluation": 3}', b"\xff\xfe")
    for name, content in zip("abcdef", broken, strict=True):
        (run / f"{name}.json").write_bytes(content)
    write(tmp_path, secret={"accuracy": {"20": 99.0}})
    (run / "g.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(run / "h.json")
    (run / "._linear.json").write_bytes(b"a system's own file")
    numbers = f'{{"x": NaN, "y": 1e999, "z": 4, "w": "5", "v": null, "u": 1{"0" * 400}}}'
    (run / "odd.json").write_text(f'{{"evaluation": "odd", "accuracy": {numbers}}}')
    (run / "picture.png").write_bytes(b"no picture")
    out = tmp_path / "new" / "report.html"
    evaluate(f"report {run} --out {out}")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 9 and all(line.startswith("left out: ") for line in lines)
    found = BeautifulSoup(out.read_text(), "html.parser")
    notes = [note.text for note in found.find(class_="notes")("li")]
    assert [re.search(r"run/(\w+)\.", note)[1] for note in notes] == [*"abcdefgh", "picture"]
    assert table(found, "odd") == {("run",): ["4.00"]} and "99.00" not in out.read_text()


def test_curves_are_the_logs_points(tmp_path):
    epochs, losses = np.array([0, 1, 2, 4.0]), np.array([3, 1, 2, 0.5])
    runs = write(tmp_path / "run"), write(tmp_path / "long")
    for run, repeats in zip(runs, (1, 500), strict=True):
        points = zip(epochs, losses, strict=True)
        rows = [{"step": 1, "epoch": e, "loss": x, "bad": "x"} for e, x in points] * repeats
        (run / "log.jsonl").write_text("\n".join(map(json.dumps, [*rows, [1], 3])))
    found = shown(*runs)
    assert len(found("figure")) == 1  # neither step nor text is a curve
    lines = [a["d"] for a in found("path") if "stroke: var(--line" in a.get("style", "")]
    x, y = np.array(re.findall(r"[ML] (\S+) (\S+)", lines[0]), float).T
    for drawn, expected in ((x, epochs), (y, losses)):
        fit = np.polyval(np.polyfit(expected, drawn, 1), expected)
        assert len(drawn) == 4 and np.abs(drawn - fit).max() < 1e-3
    assert lines[1].count("L") <= 300


def test_masks_of_the_runs_cache(truth_cache, images, tmp_path):
    config = {"masks": str(truth_cache), "images": str(images / "train"), "seed": 0}
    pictures = shown(write(tmp_path / "run", config), masks=3)("img")
    assert len(pictures) == 3
    for attributes in pictures:
        content = io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2]))
        picture = np.array(Image.open(content).convert("RGB")).astype(int)
        image, mask, kept = np.split(picture, 3, axis=1)
        files = [Image.open(images / folder / attributes["alt"]) for folder in ("train", "masks")]
        truth, true_mask = (np.array(file.resize(image.shape[1::-1])) for file in files)
        assert np.abs(image - truth).mean() < 12 and np.abs(mask[..., 0] - true_mask).mean() < 12
        inside, outside = true_mask > 250, true_mask < 5
        assert np.abs(kept - image)[inside].mean() < 15 < np.abs(kept - image)[outside].mean()
    other = shown(write(tmp_path / "other", config | {"masks": str(tmp_path)}))
    assert "no masks to show" in other.find(class_="notes").text
