"""What holds for every evaluation as a command: seeds, its one JSON, up to date or not, signals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cli import UsageError
from data.io import remove_temporary
from evaluate import __main__ as evaluations
from evaluate.backgrounds import variants
from evaluate.common import Common, command, reserved
from evaluate.features import extract, load_encoder
from evaluate.probes import knn, linear
from train.checkpoint import CHECKPOINTS
from train.features import Labelled

EVALUATE = [sys.executable, "-m", "evaluate"]
STEM = ["--stem", "small_stride2"]


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


@pytest.mark.parametrize("printed", ["to nobody", "one line"])
def test_the_result_is_on_disk_before_it_is_printed(printed, trained, data, tmp_path):
    """Into a pipe that is closed, into `head -1`; on a terminal without the letters of the name."""
    file = tmp_path / "é\udcff.json"
    arguments = [*EVALUATE, "knn", "--run", trained, "--data", data, "--json", os.fsencode(file)]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ascii_only
    )
    if printed == "to nobody":
        process.stdout.close()
    out = process.stdout.readline() if printed == "one line" else b""
    errors = process.stderr.read()
    out += b"" if process.stdout.closed else process.stdout.read()
    assert process.wait() == (2 if printed == "to nobody" else 0), errors
    assert json.loads(file.read_text())["evaluation"] == "knn"
    assert (b"results are on disk" in errors) == (printed == "to nobody")
    if printed != "to nobody":
        assert b"k=200  top-1" in out and b"(the bank has 80)" in out and b"temperature 0.07" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nope"], "no evaluation 'nope'"),
        (["knn", "--run", "{}", "--data", "d"], "no run here"),
        (["knn", "--run", "{}/absent", "--data", "d"], "no run here"),
        (["knn", "--weights", "{}/absent.pth", "--data", "d"], "no such file of weights"),
        (["knn", "--run", "", "--data", "d"], "give either --run RUN or --weights FILE"),
        (["knn", "--data", "d"], "give either --run RUN or --weights FILE"),
        (["knn", "--run", "RUN", "--data", "d", "--device", "mps"], "--device mps: "),
        (["knn", "--run", "RUN", "--data", "d", "--seeds", "0"], "--seeds 0"),
    ],
)
def test_what_is_wrong_leaves_nothing(argv, message, trained, tmp_path, monkeypatch):
    places = [part.replace("RUN", trained).format(tmp_path) for part in argv]
    monkeypatch.setattr(sys, "argv", ["evaluate", *places])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        evaluations.main()
    assert not list(tmp_path.iterdir())


def test_two_evaluations_do_not_write_one_file(trained, data, tmp_path):
    """Nor x and x.json at once, which have the same files beside them."""
    options = ["--run", trained, "--data", data, "--json", str(tmp_path / "a.json")]
    for name in ("a.json", "a"):
        arguments = knn.Arguments(trained, data, json_file=str(tmp_path / name))
        busy = pytest.raises(UsageError, match=r"a\.json: another evaluation is writing it")
        with reserved(arguments), busy:
            command("knn", knn, options)
    command("knn", knn, options)  # what the first one held is free again
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]  # and no lock stays


def test_what_is_kept_is_named_after_the_whole_result():
    names = [
        linear.Arguments("r", "d", json_file=f"a/{name}").kept_file(0).name
        for name in ("x.json", "x.out")
    ]
    assert names == ["x-seed0.pt", "x.out-seed0.pt"]


def test_a_training_leaves_what_an_evaluation_beside_it_writes(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = tmp_path / f"linear-seed0.pt.{socket.gethostname()}.{ended.pid}.tmp"
    dead.write_bytes(b"half")
    reused = tmp_path / f"knn.json.{socket.gethostname()}.{os.getpid()}.tmp"
    alive = tmp_path / f"knn.json.{socket.gethostname()}.{os.getppid()}.tmp"
    reused.write_bytes(b"half")
    alive.write_bytes(b"half")
    remove_temporary(tmp_path)  # as a training does at its start
    assert list(tmp_path.iterdir()) == [alive]


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


def test_a_current_result_is_left(trained, data, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    accented = tmp_path / "données"
    shutil.copytree(data, accented, symlinks=True)

    def once(*more: str, folder: str = f"{accented}") -> bool:
        """Whether the evaluation was computed."""
        options = ["--run", str(tmp_path / "run"), "--data", folder, "--unless-current", *more]
        command("knn", knn, options)
        return "up to date" not in capsys.readouterr().out

    assert once() and not once()
    decomposed = unicodedata.normalize("NFD", f"{accented}/")
    assert not once(folder=decomposed) and not once("--workers", "1", "--device", "cpu")
    assert once("--k", "5") and not once("--k", "5") and once(folder=data)
    os.utime(tmp_path / "run" / "backbone.pt")
    assert once(folder=data)
    (tmp_path / "run" / "knn.json").write_text("{")
    assert once(folder=data)


def test_a_run_with_damaged_checkpoints_is_evaluated_by_its_backbone(
    trained, data, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for file in [*(folder / CHECKPOINTS).glob("*.pt"), folder / "head.pt"]:
        file.write_bytes(b"damaged")
    command("knn", knn, ["--run", str(folder), "--data", data])
    printed = capsys.readouterr()
    assert "its head is missing" in printed.err
    assert "backbone features" in printed.out and "head features  " not in printed.out
    shutil.rmtree(folder / CHECKPOINTS)
    command("knn", knn, ["--run", str(folder), "--data", data])


@pytest.mark.parametrize(
    ("name", "number", "to"),
    [
        ("linear", signal.SIGTERM, "group"),
        ("few", signal.SIGUSR1, "group"),
        ("few", signal.SIGTERM, "one"),
        pytest.param("linear", signal.SIGTERM, "launch", marks=pytest.mark.slow),
        pytest.param("few", signal.SIGTERM, "launch", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves(name, number, to, moco, data, tmp_path):
    """To every process, as `srun --signal` and `scancel` send it, to the main one, and with two
    processes under train.launch; a second one does no harm."""
    options = ["--weights", moco, *STEM, "--data", data, "--json", str(tmp_path / "x.json")]
    few = ["--modes", "finetune", "--percent", "50", "--finetune-epochs", "2000"]
    options += few if name == "few" else ["--epochs", "2000", "--lr", "0.1"]
    launch = ["-m", "train.launch", "--standalone", "--nproc-per-node", "2"] * (to == "launch")
    process = subprocess.Popen(
        [sys.executable, *launch, *EVALUATE[1:], name, *options, "--workers", "2", "--batch", "8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    send = os.kill if to == "one" else os.killpg
    while not list(tmp_path.glob("x*-seed0.pt")):  # the first epoch is saved
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    send(process.pid, number)
    time.sleep(0.02)
    if process.poll() is None:
        send(process.pid, number)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "the same command continues" in out, errors
    assert "Traceback" not in errors and not (tmp_path / "x.json").exists()
    (file,) = tmp_path.glob("x*-seed0.pt")
    assert "optimizer" in torch.load(file, weights_only=True)
