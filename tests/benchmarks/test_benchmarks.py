"""The benchmark scripts: blocks are filled and nothing else is touched; a small run gives every
column."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import evaluate, gpu, peer, peers, records, saliency, speed, train
from benchmarks.publish import fill
from data.cli import UsageError
from preprocess.estimators.u2net import U2NetP
from tests.test_imports import imported


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """(module, options) -> the numbers, and what was printed."""

    def call(module, options, *more):
        out = tmp_path / "bench" / "numbers.json"
        files = ["--json", str(out), "--readme", str(tmp_path / "page.md")]
        monkeypatch.setattr(sys, "argv", ["x", *options.split(), *map(str, more), *files])
        module.main()
        return json.loads(out.read_text()), capsys.readouterr().out

    return call


@pytest.fixture
def pictures(tmp_path):
    """A folder of two images and a broken file."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for name in ("0.jpg", "1.jpg"):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (90, 120, 3), np.uint8))
    return folder.parent


def test_fill_replaces_only_the_block(tmp_path):
    file = tmp_path / "page.md"
    block, rest = "<!-- bench:begin -->\n{}\n<!-- bench:end -->", "\n<!-- other:begin --><!-- other"
    file.write_text("before\n" + block.format("old") + rest)
    assert fill(file, "bench", "new\ntable")
    assert file.read_text() == "before\n" + block.format("new\ntable") + rest
    assert not fill(file, "missing", "x") and not fill(tmp_path / "none.md", "bench", "x")


def test_speed(bench, pictures, tmp_path, monkeypatch):
    """Without weights a network's row says so; with random ones it is timed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    (pictures / "broken.jpg").write_bytes(b"no image")
    result, said = bench(speed, "--estimator rbd,ft,u2netp --repeats 1 --images", pictures)
    assert result["count"] == 2 and result["failed"] == 1 and "| `rbd` |" in said
    assert set(result["estimators"]) == {"rbd", "ft"}
    assert {"decode", "superpixels", "graph", "solve", "write"} <= set(result["stages"])
    assert "| `u2netp` | no weights here | | |" in said
    options = "--estimator u2netp --untrained --repeats 1 --limit 1 --images"
    result, _ = bench(speed, options, pictures)
    assert result["estimators"]["u2netp (random weights)"]["ms"] > 10


def test_saliency_of_networks(bench, shared, tmp_path, monkeypatch):
    """A network whose weights are found is scored like any estimator; the others' rows say that
    they have none. Losses against the authors' code are listed."""
    torch.manual_seed(0)
    file = tmp_path / "u2netp.pth"
    torch.save(U2NetP().build().state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DILO_WEIGHTS", str(file))  # one network's, not taken for the others'
    monkeypatch.setattr(saliency, "NAMES", ("fusion", "gs"))
    perfect = {"gs": (0.0, *[1.0] * 6)}
    monkeypatch.setattr(saliency, "AUTHORS", perfect)
    result, said = bench(saliency, "--limit 1 --ecssd", shared / "ecssd")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert result["estimators"]["u2netp"]["weights"] == digest
    assert {"u2net", "basnet"} <= set(result["absent"])
    assert set(result["odd"]) == {"fusion"} and "| fusion, odd numbers | " in said
    assert "| u2net | no weights here |" in said
    gs = dict(zip(saliency.METRICS, perfect["gs"], strict=True))
    assert saliency.worse({"gs": gs}) == [] and "gs: mae is 0." in said
    lost = saliency.worse({"gs": gs | {"mae": 0.02, "s": 0.98, "mean_f": 0.99}})
    assert [loss[:2] for loss in lost] == [("gs", "mae"), ("gs", "s")]


def test_extraction_beside_the_bare_network(bench, pictures, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench-evaluate:begin -->\n<!-- bench-evaluate:end -->")
    cases = (("resnet10", 32, "imagenet", 1), ("resnet10", 32, "imagenette", 9))
    monkeypatch.setattr(evaluate, "CASES", cases)
    options = "--rounds 3 --batch 2 --queries 0 --imagenet"
    rows = bench(evaluate, options, pictures, "--imagenette", pictures)[0]["rows"]
    assert [row["count"] for row in rows] == [1, 2]
    for row in rows:
        bare = sorted(seconds[0] for seconds in row["seconds"])[1]
        assert row["bare"] == row["count"] / bare
        for ratio, times in ((row["ratio"], "seconds"), (row["cpu_ratio"], "cpu_seconds")):
            assert ratio == sorted(bare / extracted for bare, extracted in row[times])[1]
    assert "| resnet10, 32 px | 1 of imagenet |" in page.read_text()


@pytest.mark.slow
def test_memory_of_neighbours_counts_the_queries():
    """Twice 200 MB more queries, once as given and once normalised, are seen in the peak."""
    few, many = evaluate.knn_memory(8, rows=64), evaluate.knn_memory(25_000, rows=64)
    assert 0.35 < many - few < 1.2


def test_the_trainers_parts(bench, images, tmp_path):
    """Every background and both readers on a tiny set, as `make bench-datapath` measures them."""
    (tmp_path / "imagenette_128").mkdir()
    for name, tree in (("imagenet_sample", "train"), ("dtd", "masks")):
        (tmp_path / name).symlink_to(images / tree)
    (tmp_path / "imagenette_128" / "train").symlink_to(images / "train")
    options = "--size 32 --repeats 1 --parts loader packs --data"
    result, said = bench(train, options, tmp_path)
    assert "in the loader, `swap`" in said and result["pack_read"]["images"] == 80
    assert set(result["loader"]) >= {"off", "grey", "swap", "torchvision", "photometric"}
    assert result["pack_views"]["ratio"] > 0


PEER = """#!/bin/sh
case "$4" in
  DALI*) echo "No module named 'nvidia'" >&2; exit 1 ;;
  *) echo '{"cpu_ms": 1000.0, "versions": {"lightly": "1.0"}}' ;;
esac
"""


def test_peers_beside_ours_and_those_that_are_not_there(bench, images, tmp_path):
    (tmp_path / "python").write_text(PEER)
    (tmp_path / "python").chmod(0o755)
    options, folder = "--limit 15 --size 16 --repeats 2 --images", images / "train"
    cores = os.sched_getaffinity(0)
    try:
        result, said = bench(peers, options, folder, "--python", tmp_path / "python")
        missing, _ = bench(peers, options, folder, "--python", tmp_path / "nothing")
    finally:
        os.sched_setaffinity(0, cores)
    rows = {row["by"]: row for row in result["rows"]}
    assert result["images"] == 10 and rows["lightly"]["cpu_ms"] == 1000
    ours = next(row for row in result["rows"] if row["outputs"] == "pairs")
    assert rows["lightly"]["ratio"] == pytest.approx(1000 / ours["cpu_ms"]) and ours["ratio"] == 1
    assert "| not run: No module named 'nvidia' |" in said and "lightly 1.0" in said
    assert sum("No such file" in row.get("error", "") for row in missing["rows"]) == 9


def test_a_peers_program_imports_nothing_of_ours(images, tmp_path):
    assert not imported(Path(peer.__file__))
    files = [str(file) for file in sorted((images / "train").rglob("*.png"))[:2]]
    (tmp_path / "list").write_text("\n".join(files))
    command = [sys.executable, "-P", peer.__file__, tmp_path / "list", "torchvision colours", "32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["cpu_ms"] > 0


def test_records_are_added_to_those_of_other_machines(bench, images, tmp_path, monkeypatch):
    tree = tmp_path / "data" / "imagenette_128" / "train"
    tree.mkdir(parents=True)
    (tree / "class0").symlink_to(images / "train" / "class0")
    monkeypatch.setenv("DILO_SHARED", str(tmp_path))
    known = {"seconds": 99.5, "machine": "a GPU", "commit": "abc1234", "date": "2026-11-27"}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "numbers.json").write_text(json.dumps({"records": {"knn": known}}))
    result, said = bench(records, "--only rbd")
    assert result["records"]["knn"] == known and 0 < result["records"]["rbd"]["seconds"] < 60
    assert "| 100 | a GPU | abc1234, 2026-11-27 |" in said and said.count("| not run |") == 2


def test_a_record_of_a_training_ends_at_its_target(tmp_path):
    log, line = tmp_path / "log.jsonl", f'{{"epoch": 3, "knn": {records.TARGET}}}'
    code = f"open({str(log)!r}, 'w').write({line!r}); time.sleep(60)"
    assert records.seconds(["timeit", "-n1", "-r1", "-s", "import time", code], log) < 30
    with pytest.raises(UsageError, match="stayed below its target"):
        records.seconds(["nothing_of_that_name"], tmp_path / "new")


def test_speed_on_a_gpu_needs_one(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--images", str(tmp_path)])
    with pytest.raises(UsageError, match="no GPU that torch can use"):
        gpu.main()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    gpu.repeat(tmp_path, tmp_path / "to", 3)
    names = sorted(p.name for p in (tmp_path / "to").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]


def test_speed_on_a_gpu_runs_small_on_a_cpu(bench, images, tmp_path):
    """All that is not compiled; what is left out, or not begun in time, is "not run"."""
    small = ("--device", "cpu", "--network", "resnet10", "--size", 32, "--batch", 16, "--steps", 6)
    options = ("--images", images / "train", "--workers", 1, *small)
    steps = (gpu.SUPERVISED, "step", "step, swap", gpu.TRAINER)
    result, said = bench(gpu, *options, "--only", *steps)
    assert set(result["images_per_s"]) == {*steps, "waiting", "memory_gb"}
    assert all(value > 0 for name, value in result["images_per_s"].items() if name in steps)
    assert 0.5 < sum(result["profile"].values()) <= 1 and "goes into: " in said
    assert said.count("not run") == 4
    assert "\n| the trainer's step, `--compile` | not run |  |\n" in said
    result, said = bench(gpu, *options, "--seconds", 0, "--only", "step", gpu.TRAINER)
    assert len(result["images_per_s"]) < 2 and "trainer: not run" in said
