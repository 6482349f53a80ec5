"""The page holds the numbers of the JSONs, loads nothing, escapes everything, and leaves out what
it cannot read."""

import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from data.cli import UsageError
from evaluate import report
from evaluate.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, chart, ticks
from evaluate.report.collect import collect, names
from evaluate.report.markup import safe, tag
from evaluate.report.page import page

VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """Every element's tag and attributes, the text of the page, and its tables by the heading
    above."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.heading, self.tables, self.words = [], [], "", {}, []
        self.scripts, self.styles = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name in ("h2", "summary"):
            self.heading = ""
        if name == "table":
            self.rows = self.tables.setdefault(self.heading, [])
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.rows[-1].append([dict(attributes), ""])

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            (self.scripts if "script" in self.open else self.styles).append(data)
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("h2", "summary"):
            self.heading += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1][1] += data

    def table(self, heading: str) -> dict[tuple[str, ...], list[str]]:
        """First cells -> texts of the numbers."""
        return {
            tuple(text for attributes, text in row if attributes.get("class") == "text"): [
                text for attributes, text in row if attributes.get("class") != "text"
            ]
            for row in self.tables[heading][1:]
        }


def write(folder, config=None, **results):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in results.items():
        (folder / f"{name}.json").write_text(
            json.dumps({"evaluation": name.replace("_", "-"), **content})
        )
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
    paths = []
    for seed, top1 in ((0, 61.0), (1, 64.0)):
        paths.append(
            write(
                tmp_path / f"base-s{seed}",
                {"method": "moco", "seed": seed, "out": f"x{seed}", "epochs": 2},
                linear=linear(top1, 0.125),
                knn={"accuracy": {"200": 40.0 + seed, "head 20": 30.5}},
            )
        )
    paths.append(
        write(
            tmp_path / "dilo",
            {"method": "moco", "seed": 0, "epochs": 3},
            linear=linear(70.0, 0.25, epochs=50),
            few={"accuracy": {"1% linear": {"top-1": 12.5}, "10% linear": {"top-1": 45.25}}},
            in9={
                "accuracy": {"head": {"mixed_same": 80.0, "mixed_rand": 60.5, "bg_gap": 19.5}},
                "per_class": {"head": {"mixed_rand": {"00_dog": 55.0}}},
                "published": [
                    {"model": "MoCo v2", "source": "Ryali: second-hand", "mixed_rand": 70.7}
                ],
            },
        )
    )
    return paths


def made(paths, **options) -> Page:
    found, notes = collect(paths)
    return Page(page(found, notes, "Results", **options))


def test_numbers_are_those_of_the_files(runs):
    found = made(runs)
    table = found.table("Linear classification, MoCo's protocol: %")
    assert table["base-s0",] == ["61.00 ± 0.12", "81.00 ± 0.50"] and table["dilo",] == [
        "70.00 ± 0.25",
        "90.00 ± 0.50",
    ]
    mean, deviation = np.mean([61, 64]), np.std([61, 64], ddof=1)
    assert table["mean: base-s0, base-s1",][0] == f"{mean:.2f} ± {deviation:.2f}"
    assert found.table("per class")["dog",] == ["71.25 ± 2.00"] * 3
    assert found.table("Nearest neighbours: top-1, %")["base-s1",] == ["41.00", "30.50"]
    heads = [text for _, text in found.tables["Nearest neighbours: top-1, %"][0]]
    assert heads == ["run", "backbone, k = 200", "head, k = 20"]
    assert found.table("Few labels: %") == {
        ("dilo", "1% linear"): ["12.50"],
        ("dilo", "10% linear"): ["45.25"],
    }
    challenge = found.table("ImageNet-9: %")
    assert challenge["dilo", "head"] == ["80.00", "60.50", "19.50"]
    assert challenge["MoCo v2", "Ryali: second-hand"] == ["–", "70.70", "–"]
    assert found.table("per class")["head / mixed_rand / 00_dog",] == ["55.00"]
    assert "The protocols differ in epochs: compare with care." in found.words
    best = [
        row[0][1]
        for row in found.tables["Linear classification, MoCo's protocol: %"][1:]
        if row[1][0].get("class") == "best"
    ]
    assert best == ["dilo"]


def test_saliency_has_a_row_an_estimator_and_a_curve(tmp_path):
    curves = {"precision": [1.0, 0.5], "recall": [0.0, 1.0]}
    (tmp_path / "saliency.json").write_text(
        json.dumps(
            {
                "estimators": {
                    "rbd": {
                        "mae": 0.17094,
                        "s": 0.6893,
                        "version": 3,
                        "parameters": {"k": 2},
                        "curves": curves,
                    },
                    "ft": {"mae": 0.2958, "s": 0.4662, "version": 1, "parameters": {}},
                },
                "paths": ["a.jpg"],
                "count": 1,
            }
        )
    )
    found = made([str(tmp_path / "saliency.json")])
    assert found.table("Saliency") == {
        ("saliency", "rbd"): ["0.1709", "0.6893"],
        ("saliency", "ft"): ["0.2958", "0.4662"],
    }
    assert [a["points"] for name, a in found.elements if name == "polyline"] == [
        f"{LEFT}.0,10.0 {WIDTH - RIGHT}.0,{10 + (HEIGHT - 44) / 2}"
    ]


def test_results_of_several_runs_and_of_several_parts(runs, tmp_path):
    """As `evaluate diagnose` and `evaluate detection` write them."""
    numbers = {
        run: {
            "accuracy": {"share": 40.0 + i, "knn": 12.345},
            "maps": {"knn": {"gradcam": {"iou": 33.0 + i}}},
            "neighbours": {"wrong": 7},
        }
        for i, run in enumerate((runs[2], "/elsewhere/x"))
    }
    (tmp_path / "diagnose.json").write_text(
        json.dumps(
            {
                "evaluation": "diagnose",
                "protocol": {"maps": "gradcam"},
                "chance": {"share": 25.0},
                "runs": numbers,
            }
        )
    )
    write(
        tmp_path / "dilo",
        detection_voc_c4={
            "accuracy": {
                "box": {"AP": 50.5, "AP50": 80.0, "per_class": {"cat": 9.0}},
                "voc07": {"AP": 51.0},
            },
            "deviation": {
                "box": {"AP": 0.25, "AP50": 0.5, "per_class": {"cat": 1.0}},
                "voc07": {"AP": 0.1},
            },
        },
    )
    found = made([*runs, str(tmp_path / "diagnose.json")])
    assert found.table("Does it look at the object? %") == {
        ("dilo",): ["40.00", "12.35"],
        ("x",): ["41.00", "12.35"],
        ("chance",): ["25.00", "–"],
    }
    assert found.table("maps")["knn / gradcam / iou",] == ["33.00", "34.00"]
    assert found.table("Detection, voc c4: AP, %") == {
        ("dilo", "box"): ["50.50 ± 0.25", "80.00 ± 0.50"],
        ("dilo", "voc07"): ["51.00 ± 0.10", "–"],
    }
    assert found.table("box per class")["cat",] == ["9.00 ± 1.00"]


def test_nothing_is_loaded(runs):
    found = made(runs)
    for name, attributes in found.elements:
        assert name not in (
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "audio",
            "video",
            "image",
            "use",
        )
        for key, value in attributes.items():
            assert not key.startswith("on") and key != "style"
            if key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert value.startswith(("#part-", "data:image/webp;base64,"))
    assert (
        len(found.scripts) == 1
        and "http" not in found.scripts[0]
        and "fetch" not in found.scripts[0]
    )
    assert "url(" not in found.styles[0] and "@import" not in found.styles[0]
    policy = next(
        a["content"] for n, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(found.scripts[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in found.elements
    links = {a["href"][1:] for n, a in found.elements if n == "a"}
    assert links == {a["id"] for _, a in found.elements if "id" in a}


HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;<script>alert(2)<\\script>"


def test_hostile_names_change_no_element(tmp_path):
    def build(root, name):
        result = {
            "protocol": {name: name, "lr": [name]},
            "accuracy": {"top-1": 1.0, name: 2.0, "per_class": {name: 3.0}},
        }
        folder = root / name
        write(
            folder,
            {"method": name, "seed": 1, "masks": name, "images": name},
            linear=result,
            few={"accuracy": {name: {"top-1": 5.0}}},
            in9={
                "accuracy": {"head": {"x": 1}},
                "published": [{"model": name, "source": name, "x": 2.0}],
            },
        )
        (folder / f"{name}.json").write_text(
            json.dumps({"evaluation": name, "accuracy": {"a": 1.0}})
        )
        (folder / "log.jsonl").write_text(json.dumps({"epoch": 1, name: 1.0}) + "\n")
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
        (folder / "broken.json").write_text("{")
        return made([str(folder)])

    plain, hostile = build(tmp_path / "a", "plain"), build(tmp_path / "b", HOSTILE)
    assert [(n, sorted(a)) for n, a in hostile.elements] == [
        (n, sorted(a)) for n, a in plain.elements
    ]
    assert HOSTILE in hostile.words and hostile.table("Few labels: %") == {
        (HOSTILE, HOSTILE): ["5.00"]
    }
    assert len(hostile.scripts) == 1


def test_bytes_that_are_no_text_and_turned_text(tmp_path):
    assert (
        safe("a\udcff\x00\u202eb") == "a\ufffd\ufffd\ufffdb"
        and safe(tag("b", "<")) == "<b>&lt;</b>"
    )
    folder = os.path.join(os.fsencode(tmp_path), b"run-\xff")
    os.mkdir(folder)
    with open(os.path.join(folder, b"knn.json"), "w") as file:
        json.dump({"evaluation": "knn", "accuracy": {"20": 1.5}}, file)
    out = tmp_path / "r.html"
    report.main([os.fsdecode(folder), "--out", str(out)])
    assert "run-\ufffd" in out.read_text(encoding="utf-8")


def test_what_cannot_be_read_is_left_out_with_a_note(runs, tmp_path, capsys):
    (tmp_path / "secret.json").write_text(
        json.dumps({"evaluation": "knn", "accuracy": {"20": 99.0}})
    )
    broken = tmp_path / "dilo"
    contents = {
        "a": "{",
        "b": "[1]",
        "c": "[" * 100000,
        "d": '{"x": 1}',
        "e": '{"evaluation": 3}',
        "f": "\xff\xfe",
    }
    for name, content in contents.items():
        (broken / f"{name}.json").write_text(content, encoding="latin-1")
    (broken / "g.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(broken / "h.json")
    (broken / "odd.json").write_text(
        '{"evaluation": "odd", "accuracy": {"x": NaN, "y": 1e999, "z": 4, "w": "5", '
        f'"v": null, "u": 1{"0" * 400}}}}}'
    )
    (broken / "picture.png").write_bytes(b"no picture")
    out = tmp_path / "new" / "report.html"
    report.main([*runs, "--out", str(out)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 9 and all(line.startswith("left out: ") for line in lines)
    found = Page(out.read_text())
    notes = [word for word in found.words if str(broken) in word and word != str(broken)]
    assert [re.search(r"dilo/(\w+)\.", note)[1] for note in notes] == [*"abcdefgh", "picture"]
    assert found.table("odd") == {("dilo",): ["4.00"]} and "99.00" not in out.read_text()
    with pytest.raises(UsageError, match="nowhere: no such run folder"):
        report.main([str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="name at least one run"):
        report.main([])


def test_runs_are_told_apart_by_as_much_of_their_path_as_needed(tmp_path):
    assert names([tmp_path / p for p in ("a/x", "b/x", "b/y", "b/z.json")]) == [
        "a/x",
        "b/x",
        "y",
        "z",
    ]
    assert names([tmp_path / "x", tmp_path / "x"])[0].endswith("x")


def test_curves_are_the_logs_points(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": i, "epoch": i / 10, "loss": 3 - i / 50, "bad": "x"} for i in range(100)]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n[1]\n{"epoch": 3, "lo')
    found = made([str(folder)])
    points = [
        [float(v) for v in p.split(",")]
        for p in next(a["points"] for n, a in found.elements if n == "polyline").split()
    ]
    assert (
        len(points) == 100
        and points[0] == [LEFT, 10]
        and points[-1] == [WIDTH - RIGHT, HEIGHT - 34]
    )
    assert points[50][0] == pytest.approx(LEFT + 50 / 99 * (WIDTH - LEFT - RIGHT), abs=0.06)
    assert sum(n == "polyline" for n, _ in found.elements) == 1  # neither step nor text is a curve
    many = np.stack([np.arange(5000), np.zeros(5000)], 1).astype(float)
    drawn = chart({0: many, 1: np.full((1, 2), np.nan)}, "x", ["a", "b"])
    assert drawn.count(",") == 300 and chart({0: np.empty((0, 2))}, "x", ["a"]) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (5.66, 5.94), (-3, 1000), (1e-7, 3e-7), (0, 2e9)]
)
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert (
        3 <= len(found) <= 6
        and low - 1e-9 * abs(high) <= found[0]
        and found[-1] <= high * (1 + 1e-9)
    )
    assert np.allclose(np.diff(found), found[1] - found[0])


def decoded(attributes: dict) -> np.ndarray:
    content = base64.b64decode(attributes["src"].partition(",")[2])
    return np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_pictures_are_inside_and_made_small(tmp_path):
    folder = tmp_path / "run"
    write(folder, knn={"accuracy": {"20": 1.0}})
    ramp = np.broadcast_to(
        np.linspace(0, 255, 2400).astype(np.uint8)[None, :, None], (300, 2400, 3)
    )
    Image.fromarray(ramp).save(folder / "heat.png")
    Image.fromarray(ramp[:40, :60]).save(folder / "first_batch.png")
    shown = [a for n, a in made([str(folder)]).elements if n == "img"]
    assert [a["alt"] for a in shown] == ["first_batch of run", "heat of run"]
    large = decoded(shown[1])
    assert large.shape == (150, 1200, 3) and np.abs(large - ramp[::2, ::2]).mean() < 3
    assert [a for n, a in made([str(folder)], pictures=0).elements if n == "img"] == []


def test_masks_of_the_runs_cache(truth_cache, images, tmp_path):
    run = write(
        tmp_path / "run", {"masks": str(truth_cache), "images": str(images / "train"), "seed": 0}
    )
    shown = [a for n, a in made([run], masks=3).elements if n == "img"]
    assert len(shown) == 3
    for attributes in shown:
        strip, name = decoded(attributes), attributes["alt"].split(":")[0]
        image, mask, kept = np.split(strip, 3, axis=1)
        truth = np.array(Image.open(images / "train" / name).resize(image.shape[1::-1])).astype(int)
        true_mask = np.array(Image.open(images / "masks" / name).resize(image.shape[1::-1])).astype(
            int
        )
        assert np.abs(image - truth).mean() < 12 and np.abs(mask[..., 0] - true_mask).mean() < 12
        inside = true_mask > 250
        assert np.abs(kept - image)[inside].mean() < 15 < np.abs(kept - image)[true_mask < 5].mean()
    broken = write(
        tmp_path / "other", {"masks": str(tmp_path), "images": str(images / "train"), "seed": 0}
    )
    found, notes = collect([broken])
    page(found, notes, "x")
    assert len(notes) == 1 and "no masks to show" in notes[0]
