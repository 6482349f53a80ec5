"""The benchmark scripts: a small run gives every column."""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

from benchmarks import evaluate, gpu, peer, peers, records, saliency, speed, train
from tests.conftest import call, refused
from tests.test_imports import imported


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """(module, options) -> the numbers, and what was printed; no network's weights are here."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)

    def measured(module, options, *more):
        out = tmp_path / "bench" / "numbers.json"
        files = ("--json", out, "--readme", tmp_path / "page.md")
        call(module.main, *options.split(), *more, *files)
        return json.loads(out.read_text()), capsys.readouterr().out

    return measured


def test_speed(bench, tmp_path):
    pictures = tmp_path / "images"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "0.jpg"), np.random.default_rng(0).integers(0, 256, (90, 120, 3)))
    (pictures / "broken.jpg").write_bytes(b"no image")
    result, said = bench(speed, "--estimator rbd,ft,u2netp --repeats 1 --images", pictures)
    assert result["count"] == result["failed"] == 1 and "| `rbd` |" in said
    assert set(result["estimators"]) == {"rbd", "ft"}
    assert "| `u2netp` | no weights here | | |" in said


def test_saliency_beside_the_authors(bench, shared, monkeypatch):
    """Losses against the authors' code are listed; a network without weights has a row."""
    monkeypatch.setattr(saliency, "NAMES", ("fusion", "gs"))
    monkeypatch.setattr(saliency, "AUTHORS", {"gs": (0.0, *[1.0] * 6)})
    result, said = bench(saliency, "--limit 1 --ecssd", shared / "ecssd")
    assert set(result["odd"]) == {"fusion"} and "| fusion, odd numbers | " in said
    assert "| u2net | no weights here |" in said and "gs: mae is 0." in said
    scores = dict.fromkeys(saliency.METRICS, 0.99) | {"mae": 0.02, "s": 0.98}
    assert [loss[:2] for loss in saliency.worse({"gs": scores})] == [("gs", "mae"), ("gs", "s")]


def test_extraction_beside_the_bare_network(bench, images, monkeypatch):
    folder = images / "train"
    cases = (("resnet10", 32, "imagenet", 1), ("resnet10", 32, "imagenette", 99))
    monkeypatch.setattr(evaluate, "CASES", cases)
    options = f"--rounds 3 --batch 2 --queries 0 --imagenet {folder} --imagenette {folder}"
    result, said = bench(evaluate, options)
    assert [row["count"] for row in result["rows"]] == [1, 80]
    assert "| resnet10, 32 px | 1 of imagenet |" in said


def test_the_trainers_parts(bench, images, tmp_path):
    (tmp_path / "imagenette_128").mkdir()
    for name in ("imagenet_sample", "dtd", "imagenette_128/train"):
        (tmp_path / name).symlink_to(images / "train")
    options = "--size 32 --repeats 1 --parts loader packs --data"
    result, said = bench(train, options, tmp_path)
    assert "in the loader, `swap`" in said and result["pack_read"]["images"] == 80
    assert set(result["loader"]) >= {"off", "grey", "swap", "photometric"}
    assert result["pack_views"]["ratio"] > 0


def test_peers_beside_ours_and_those_that_are_not_there(bench, images, monkeypatch):
    """torchvision, in an interpreter that imports nothing of ours; the others have no package."""
    assert not imported(Path(peer.__file__))
    monkeypatch.setattr(peers, "ROWS", peers.ROWS[:4])
    options, cores = "--limit 15 --size 16 --repeats 1 --images", os.sched_getaffinity(0)
    try:
        result, said = bench(peers, options, images / "train", "--python", sys.executable)
    finally:
        os.sched_setaffinity(0, cores)
    rows = {(row["outputs"], row["by"]): row for row in result["rows"]}
    ours, theirs = rows["pairs", "ours"], rows["pairs", "Pillow and torchvision"]
    assert result["images"] == 10 and ours["ratio"] == 1
    assert theirs["ratio"] == theirs["cpu_ms"] / ours["cpu_ms"] > 0 and "torchvision" in said
    assert "| not run: ModuleNotFoundError: No module named 'nvidia" in said


def test_records_are_added_to_those_of_other_machines(bench, images, tmp_path, monkeypatch):
    tree = tmp_path / "data" / "imagenette_128" / "train"
    tree.mkdir(parents=True)
    (tree / "class0").symlink_to(images / "train" / "class0")
    monkeypatch.setenv("DILO_SHARED", str(tmp_path))
    known = {"seconds": 99.5, "machine": "a GPU", "commit": "abc1234", "date": "2026-11-27"}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "numbers.json").write_text(json.dumps({"records": {"knn": known}}))
    result, said = bench(records, "--only rbd")
    assert result["records"]["knn"] == known and result["records"]["rbd"]["seconds"] > 0
    assert "| 100 | a GPU | abc1234, 2026-11-27 |" in said and said.count("| not run |") == 2


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (peers, "--repeats 0", "--repeats 0: must be at least 1"),
        (speed, "--repeats 0", "--repeats 0: must be at least 1"),
        (train, "--limit 9", "--limit 9: must be at least 10"),
        (gpu, "", "no GPU that torch can use"),
        (gpu, "--device cpu --batch 12", "--batch 12 does not divide into --splits 8"),
        (gpu, "--device cpu --background texture", "texture and --textures FOLDER need"),
        (records, "--only rbd", "numbers.json: damaged; restore it"),
    ],
)
def test_bad_options_are_said_first(bench, images, tmp_path, monkeypatch, module, options, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "numbers.json").write_text('{"records": {"demo": {}}}')
    more = ("--images", images / "train") if module in (gpu, peers, speed) else ()
    assert message in refused(bench, module, options, *more)


def test_speed_on_a_gpu_runs_small_on_a_cpu(bench, images, tmp_path, monkeypatch):
    """All that is not compiled; what is left out or fails is "not run"."""
    page, block = tmp_path / "page.md", "<!-- bench-gpu:begin -->\nold\n<!-- bench-gpu:end -->\n"
    page.write_text(block)
    small = "--workers 1 --device cpu --network resnet10 --size 32 --batch 16 --steps 6 --images"
    options, steps = (small, images / "train"), (gpu.SUPERVISED, "step", "step, swap", gpu.TRAINER)
    result, said = bench(gpu, *options, "--only", *steps)
    assert set(result["images_per_s"]) == {*steps, "waiting", "memory_gb"}
    assert all(value > 0 for name, value in result["images_per_s"].items() if name in steps)
    assert 0.5 < sum(result["profile"].values()) <= 1 and "goes into: " in said
    assert said.count("not run") == 4
    assert "MoCo v2, resnet10 at 32 px, batch 16, float32, 6 steps" in said
    assert "written: " in said and page.read_text() == block  # a CPU's numbers fill no page
    monkeypatch.setattr(gpu, "build", mock.Mock(side_effect=OSError("no space left")))
    result, said = bench(gpu, *options, "--only", gpu.TRAINER, "step")
    assert "| images/s of the trainer, DiLo on | not run: no space left |" in said
    assert set(result["images_per_s"]) == {"step"}
