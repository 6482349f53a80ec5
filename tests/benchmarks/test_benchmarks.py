"""The benchmark scripts: markers are filled and nothing else is touched; a small run gives every
column."""

import hashlib
import json
import sys

import cv2
import numpy as np
import pytest
import torch

from benchmarks import datapath, evaluate, gpu, saliency, speed
from benchmarks.publish import fill
from data.cli import UsageError
from preprocess.estimators import u2netp


def test_fill_replaces_only_the_block(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(
        "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
        "<!-- other:begin --><!-- other:end -->"
    )
    assert fill(file, "bench", "new\ntable")
    assert file.read_text() == (
        "before\n<!-- bench:begin -->\nnew\ntable\n<!-- bench:end -->\nafter\n"
        "<!-- other:begin --><!-- other:end -->"
    )
    assert fill(file, "bench", "newer") and "new\ntable" not in file.read_text()
    assert not fill(file, "missing", "x") and not fill(tmp_path / "none.md", "bench", "x")


def test_speed(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "bench" / "speed.json"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "speed",
            "--images",
            str(tmp_path),
            "--estimator",
            "rbd,ft",
            "--repeats",
            "1",
            "--json",
            str(out),
            "--readme",
            str(tmp_path / "none.md"),
        ],
    )
    assert speed.main() == 0
    result = json.loads(out.read_text())
    assert (
        result["count"] == 2
        and result["failed"] == 1
        and set(result["estimators"]) == {"rbd", "ft"}
    )
    assert set(result["stages"]) == {
        "decode",
        "resize",
        "frame",
        "superpixels",
        "graph",
        "solve",
        "write",
    }
    assert "| `rbd` |" in capsys.readouterr().out


def test_speed_of_networks(tmp_path, monkeypatch, capsys):
    """Without weights the row says so; with random ones it is timed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((9, 9, 3), np.uint8))
    arguments = [
        "speed",
        "--images",
        str(tmp_path),
        "--estimator",
        "u2netp",
        "--repeats",
        "1",
        "--json",
        str(tmp_path / "speed.json"),
        "--readme",
        str(tmp_path / "none.md"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    assert speed.main() == 0 and "| `u2netp` | no weights here | | |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "--untrained"])
    assert speed.main() == 0
    assert (
        json.loads((tmp_path / "speed.json").read_text())["estimators"]["u2netp (random weights)"][
            "ms"
        ]
        > 10
    )


def test_saliency_of_networks(shared, tmp_path, monkeypatch, capsys):
    """A network whose weights are found is scored like any estimator; the others' rows say that
    they have none."""
    torch.manual_seed(0)
    file = tmp_path / "u2netp.pth"
    torch.save(u2netp.build().state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DILO_WEIGHTS", str(file))  # one network's, not taken for the others'
    monkeypatch.setattr(saliency, "NAMES", ("fusion", *saliency.AUTHORS))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "saliency",
            "--ecssd",
            str(shared / "ecssd"),
            "--limit",
            "2",
            "--json",
            str(tmp_path / "saliency.json"),
            "--readme",
            str(tmp_path / "none.md"),
        ],
    )
    saliency.main()
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "saliency.json").read_text())
    assert (
        result["estimators"]["u2netp"]["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()
    )
    assert {"u2net", "basnet"} <= set(result["absent"]) and 0 < result["estimators"]["u2netp"][
        "mae"
    ] < 1
    assert set(result["odd"]) == {"fusion"} and "| fusion, odd numbers | " in said
    assert "| u2net | no weights here |" in said


def test_losses_against_the_authors_are_listed():
    entries = {
        name: dict(zip(saliency.METRICS, row, strict=True))
        for name, row in saliency.AUTHORS.items()
    }
    assert saliency.worse(entries) == []
    entries["rbd"]["mae"] += 0.02
    entries["mr"]["s"] -= 0.02
    assert [(name, metric) for name, metric, _ in saliency.worse(entries)] == [
        ("rbd", "mae"),
        ("mr", "s"),
    ]


def test_extraction_beside_the_bare_network(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for index in range(5):
        cv2.imwrite(
            str(tmp_path / "images" / "a" / f"{index}.jpg"),
            rng.integers(0, 256, (40, 50, 3), np.uint8),
        )
    out, readme, images = (
        tmp_path / "bench" / "evaluate.json",
        tmp_path / "README.md",
        str(tmp_path / "images"),
    )
    readme.write_text("<!-- bench-evaluate:begin -->\n<!-- bench-evaluate:end -->")
    monkeypatch.setattr(
        evaluate, "CASES", (("resnet10", 32, "imagenet", 4), ("resnet10", 32, "imagenette", 9))
    )
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "evaluate",
            "--imagenet",
            images,
            "--imagenette",
            images,
            "--rounds",
            "3",
            "--batch",
            "2",
            "--queries",
            "0",
            "--json",
            str(out),
            "--readme",
            str(readme),
        ],
    )
    assert evaluate.main() == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["count"] for row in rows] == [4, 5]
    for row in rows:
        ratios = sorted(bare / extracted for bare, extracted in row["seconds"])
        assert (
            row["ratio"] == ratios[1]
            and row["bare"] == row["count"] / sorted(s[0] for s in row["seconds"])[1]
        )
        assert (
            row["cpu_ratio"]
            == sorted(bare / extracted for bare, extracted in row["cpu_seconds"])[1]
        )
    assert "| resnet10, 32 px | 4 of imagenet |" in readme.read_text()


@pytest.mark.slow
def test_memory_of_neighbours_counts_the_queries():
    """Twice 200 MB more queries, once as given and once normalised, are seen in the peak."""
    few, many = evaluate.knn_memory(8, rows=64), evaluate.knn_memory(25_000, rows=64)
    assert 0.35 < many - few < 1.2


def test_datapath(images, tmp_path, monkeypatch, capsys):
    """Every background and both readers on a tiny set; where nothing is pasted the share is 0 by
    definition."""
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "datapath",
            "--images",
            str(images / "train"),
            "--small",
            str(images / "train"),
            "--textures",
            str(images / "masks"),
            "--size",
            "32",
            "--repeats",
            "1",
            "--json",
            str(tmp_path / "d.json"),
            "--readme",
            str(tmp_path / "none.md"),
        ],
    )
    assert datapath.main() == 0 and "| swap |" in capsys.readouterr().out
    result = json.loads((tmp_path / "d.json").read_text())
    assert set(result["samples"]) == set(datapath.KINDS) and result["samples"]["none"]["share"] == 0
    assert result["samples"]["random"]["donors"] > result["samples"]["swap"]["donors"] > 0
    reading = result["reading"]["photographs"]
    assert reading["images"] == 80 and reading["bytes"] == sum(
        f.stat().st_size for f in images.glob("train/*/*.png")
    )


def test_speed_on_a_gpu_needs_one_and_is_told_as_a_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--images", str(tmp_path)])
    with pytest.raises(UsageError, match="no GPU that torch can use"):
        gpu.main()
    told = gpu.table(
        {
            "ours_per_s": 900.0,
            "alone_per_s": 1000.0,
            "waiting": 0.04,
            "memory_gb": 14.1,
            "with_negative": 1.3,
            "batch": 256,
            "background": "grey",
            "workers": 14,
            "cpus": 16,
            "gpu": "G",
            "torch": "2",
            "date": "today",
            "compile": False,
        }
    )
    assert (
        "| **90 %** | ≥ 85 % |" in told
        and "| 1000 |" in told
        and "14 workers on 16 CPUs, G" in told
    )
    with pytest.raises(UsageError, match="no images"):
        gpu.repeat(tmp_path, tmp_path / "to", 4)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    gpu.repeat(tmp_path, tmp_path / "to", 3)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
