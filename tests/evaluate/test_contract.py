"""What holds for every evaluation as a command: seeds, its one JSON, up to date or not, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cli import UsageError
from evaluate.backgrounds import variants
from evaluate.common import Common, command, reserved
from evaluate.features import extract, load_encoder
from evaluate.probes import knn, linear
from train.checkpoint import CHECKPOINTS
from train.features import Labelled

EVALUATE = [sys.executable, "-m", "evaluate"]
STEM = ["--stem", "small_stride2"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*EVALUATE, *arguments], capture_output=True, text=True, **options)


def test_evaluations_give_numbers_with_their_protocol(trained, data):
    result = knn.evaluate(knn.Arguments(trained, data, k=(20, 1)))
    assert result["accuracy"]["1"] == result["accuracy"]["head 1"] == 100  # every query is banked
    assert result["protocol"]["k"] == [20, 1] and result["protocol"]["train_images"] == 80
    result = linear.evaluate(linear.Arguments(trained, data, protocol="optimum"))
    assert result["accuracy"]["top-1"] > 60
    accuracy = variants.evaluate(variants.Arguments(trained, data))["accuracy"]
    assert list(accuracy["biased"]) == list(accuracy["unbiased"]) == [*variants.SPLITS, "gap"]
    assert accuracy["biased"]["gap"] == 0  # the splits are the same folder here


def test_an_untrained_network_is_the_one_that_training_began_with(trained, data):
    images = Labelled(data + "/val", 32)
    features = extract(load_encoder(Common(trained)), images)
    random = load_encoder(Common(trained, untrained=True))
    untrained = extract(random, images)
    assert features.shape == untrained.shape == (80, 32) and images.classes == ["class0", "class1"]
    assert np.bincount(images.labels).tolist() == [40, 40]
    assert not np.allclose(features, untrained)
    again = extract(random, images, batch=7)
    assert np.allclose(untrained, again, atol=1e-5)


def test_seeds_repeat_over_runs(trained, data, tmp_path):
    """Against the single evaluations; a second run's convolutions are redrawn."""
    for seed in range(2):
        shutil.copytree(trained, tmp_path / f"run-s{seed}")
    state = torch.load(tmp_path / "run-s1" / "backbone.pt", weights_only=True)
    noise = torch.Generator().manual_seed(0)
    for key in [key for key in state if key.endswith("conv1.weight")]:
        state[key] = torch.randn(state[key].shape, generator=noise)
    torch.save(state, tmp_path / "run-s1" / "backbone.pt")
    each = [
        knn.evaluate(knn.Arguments(f"{tmp_path}/run-s{seed}", data, k=(20,)))["accuracy"]["20"]
        for seed in range(2)
    ]
    arguments = knn.Arguments(f"{tmp_path}/run-s{{seed}}", data, k=(20,), seeds=2)
    assert arguments.result_file() == tmp_path / "run-s0-1" / "knn.json"
    both = knn.evaluate(arguments)
    assert each[0] != each[1] and both["protocol"]["seeds_over"] == "runs"
    assert both["accuracy"]["20"] == pytest.approx(np.mean(each))
    assert both["deviation"]["20"] == pytest.approx(np.std(each, ddof=1))
    assert [values["20"] for values in both["per_seed"]] == each


def test_seeds_repeat_over_first_weights_or_say_that_nothing_changes(trained, data):
    fresh = variants.evaluate(variants.Arguments(trained, data, untrained=True, seeds=3))
    first = variants.evaluate(variants.Arguments(trained, data, untrained=True))
    assert fresh["per_seed"][0] == first["accuracy"]
    assert fresh["protocol"]["seeds_over"] == "first weights"
    assert len({values["biased"]["original"] for values in fresh["per_seed"]}) > 1
    same = knn.evaluate(knn.Arguments(trained, data, k=(20,), seeds=3))
    assert set(same["deviation"].values()) == {0}
    assert same["protocol"]["seeds_over"] == "nothing that a seed changes"
    with pytest.raises(UsageError, match="--seeds 0"):
        command("knn", knn, ["--run", trained, "--data", data, "--seeds", "0"])


def test_the_result_is_on_disk_before_it_is_printed(trained, data, tmp_path):
    """Into a pipe that nobody reads, on a terminal without the letters of the name."""
    file = tmp_path / "é\udcff.json"
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [*EVALUATE, "knn", "--run", trained, "--data", data, "--json", os.fsencode(file)]
    with open(writer, "wb") as closed:
        done = subprocess.run(arguments, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "results are on disk" in done.stderr
    assert json.loads(file.read_text())["evaluation"] == "knn"
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=ascii_only)
    assert done.returncode == 0 and "k=200  top-1" in done.stdout, done.stderr
    assert "(the bank has 80)" in done.stdout and "temperature 0.07" in done.stdout


@pytest.mark.slow
def test_what_is_wrong_is_one_line_and_leaves_nothing(trained, data, tmp_path):
    for arguments, message in (
        (["nope"], "no evaluation 'nope'"),
        (["knn", "--run", str(tmp_path), "--data", data], "no run here"),
        (["knn", "--run", str(tmp_path / "absent"), "--data", data], "no run here"),
        (["knn", "--weights", str(tmp_path / "absent.pth"), "--data", data], "no such file of we"),
        (["knn", "--data", data], "give either --run RUN or --weights FILE"),
        (["knn", "--run", trained, "--data", data, "--device", "mps"], "--device mps: "),
        (["knn", "--run", trained, "--data", data, "--json", "/proc/x/a.json"], "/proc/x"),
    ):
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        done = run(*arguments, cwd=tmp_path, env=environment)
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_two_evaluations_do_not_write_one_file(trained, data, tmp_path):
    options = ["--run", trained, "--data", data, "--json", str(tmp_path / "a.json")]
    arguments = knn.Arguments(trained, data, json_file=str(tmp_path / "a.json"))
    busy = pytest.raises(UsageError, match=r"a\.json: another evaluation is writing it")
    with reserved(arguments), busy:
        command("knn", knn, options)
    command("knn", knn, options)  # what the first one held is free again


def test_weights_of_one_name_have_a_folder_each(moco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for name in ("A", "B", "A", "B"):
        file = tmp_path / name / "checkpoint_0199.pth.tar"
        file.parent.mkdir(exist_ok=True)
        shutil.copy(moco, file)
        arguments = knn.Arguments(weights=str(file), data="d")
        with reserved(arguments):
            folders.append(arguments.result_file().parent)
    assert folders[0] == Path("runs/evaluate/checkpoint_0199") == folders[2]
    assert folders[1] == folders[3] != folders[0]


@pytest.mark.slow
def test_a_current_result_is_left(trained, data, images, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    accented = tmp_path / "données"
    shutil.copytree(data, accented, symlinks=True)

    def once(*more: str, folder: str = f"{accented}") -> bool:
        """Whether the evaluation was computed."""
        options = ["--run", str(tmp_path / "run"), "--data", folder, "--unless-current", *more]
        done = run("knn", *options)
        assert done.returncode == 0, done.stderr
        return "up to date" not in done.stdout

    assert once() and not once()
    decomposed = unicodedata.normalize("NFD", f"{accented}/")
    assert not once(folder=decomposed) and not once("--workers", "1", "--device", "cpu")
    assert once("--k", "5") and not once("--k", "5") and once(folder=data)
    os.utime(tmp_path / "run" / "backbone.pt")
    assert once(folder=data)
    (tmp_path / "run" / "knn.json").write_text("{")
    assert once(folder=data)


def test_a_run_with_damaged_checkpoints_is_evaluated_by_its_backbone(trained, data, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for file in [*(tmp_path / "run" / CHECKPOINTS).glob("*.pt"), tmp_path / "run" / "head.pt"]:
        file.write_bytes(b"damaged")
    done = run("knn", "--run", str(tmp_path / "run"), "--data", data)
    assert done.returncode == 0 and "its head is missing" in done.stderr
    assert "backbone features" in done.stdout and "head features  " not in done.stdout
    shutil.rmtree(tmp_path / "run" / CHECKPOINTS)
    assert run("knn", "--run", str(tmp_path / "run"), "--data", data).returncode == 0


@pytest.mark.parametrize(("name", "marker"), [("linear", "linear,"), ("few", "fine-tuning,")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_every_process_saves(name, marker, number, moco, data, tmp_path):
    """As `srun --signal` and `scancel` send it; a second one does no harm."""
    options = ["--weights", moco, *STEM, "--data", data, "--json", str(tmp_path / "x.json")]
    few = ["--modes", "finetune", "--percent", "50", "--finetune-epochs", "2000"]
    options += few if name == "few" else ["--epochs", "2000", "--lr", "0.1"]
    process = subprocess.Popen(
        [*EVALUATE, name, *options, "--workers", "2", "--batch", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("x*-seed0.pt")):  # the first epoch is saved
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command continues" in out, errors
    assert marker in errors and "Traceback" not in errors and not (tmp_path / "x.json").exists()
    (file,) = tmp_path.glob("x*-seed0.pt")
    assert "optimizer" in torch.load(file, weights_only=True)
