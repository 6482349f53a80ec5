"""What holds for every evaluation as a command: seeds, its one JSON, up to date or not, signals,
disks that take nothing, names that are not UTF-8."""

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
from data.io import lock, remove_temporary
from evaluate import __main__ as evaluations
from evaluate import report
from evaluate.backgrounds import variants
from evaluate.common import command, reserved
from evaluate.detection import command as detection
from evaluate.diagnose import command as diagnose
from evaluate.masks import saliency
from evaluate.probes import knn, linear
from tests.evaluate.folders import TINY, command_line, own_voc
from train.checkpoint import CHECKPOINTS

MODULES = {"report": report, "saliency": saliency, "diagnose": diagnose, "detection": detection}
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def test_seeds_repeat_over_runs(trained, data, tmp_path):
    """Against the single evaluations; a second run's convolutions are redrawn."""
    for seed in range(2):
        shutil.copytree(trained, tmp_path / f"run-s{seed}")
    file, noise = tmp_path / "run-s1" / "backbone.pt", torch.Generator().manual_seed(0)
    state = torch.load(file, weights_only=True)
    for key in [key for key in state if key.endswith("conv1.weight")]:
        state[key] = torch.randn(state[key].shape, generator=noise)
    torch.save(state, file)
    runs = [knn.Arguments(f"{tmp_path}/run-s{seed}", data, k=(20,)) for seed in range(2)]
    each = [knn.evaluate(run)["accuracy"]["20"] for run in runs]
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
    same = knn.evaluate(knn.Arguments(trained, data, k=(1,), seeds=3))
    assert set(same["deviation"].values()) == {0}
    assert same["protocol"]["seeds_over"] == "nothing that a seed changes"
    assert same["accuracy"]["1"] == same["accuracy"]["head 1"] == 100  # every query is banked


@pytest.mark.parametrize("closed", [True, False])
def test_the_result_is_on_disk_before_it_is_printed(closed, trained, data, tmp_path):
    """Also into a pipe that is closed; on a terminal without the letters of the name."""
    file = tmp_path / "é\udcff.json"
    line = command_line("knn", "--run", trained, "--data", data, "--json", file)
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    process = subprocess.Popen(line, env=ascii_only, **PIPES)
    if closed:
        process.stdout.close()
    out, errors = process.communicate()
    assert process.returncode == (2 if closed else 0), errors
    assert json.loads(file.read_text())["evaluation"] == "knn"
    assert ("results are on disk" in errors) == closed
    shown = ("k=200  top-1", "(the bank has 80)", "temperature 0.07")
    assert closed or all(text in out for text in shown)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("nope", "no evaluation 'nope'"),
        ("knn --run {} --data d", "no run here"),
        ("knn --weights {}/absent.pth --data d", "no such file of weights"),
        ("knn --run= --data d", "give either --run RUN or --weights FILE"),
        ("knn --run RUN --data d --device mps", "--device mps: "),
        ("knn --run RUN --data d --seeds 0", "--seeds 0"),
    ],
)
def test_what_is_wrong_leaves_nothing(argv, message, trained, tmp_path, monkeypatch):
    places = argv.replace("RUN", trained).format(tmp_path).split()
    monkeypatch.setattr(sys, "argv", ["evaluate", *places])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        evaluations.main()
    assert not list(tmp_path.iterdir())


def test_two_evaluations_do_not_write_one_file(trained, data, tmp_path):
    """Nor x and x.json at once, which have the same files beside them."""
    options = ["--run", trained, "--data", data, "--json", str(tmp_path / "a.json")]
    for name in ("a.json", "a"):
        busy = pytest.raises(UsageError, match=r"a\.json: another evaluation is writing it")
        with reserved(knn.Arguments(trained, data, json_file=str(tmp_path / name))), busy:
            command("knn", knn, options)
    command("knn", knn, options)  # what the first one held is free again
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]  # and no lock stays
    kept = linear.Arguments("r", "d", json_file="x.out").kept_file(0)
    assert kept.name == "x.out-seed0.pt"


def test_a_training_leaves_what_an_evaluation_beside_it_writes(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    writers = (ended.pid, os.getpid(), os.getppid())
    files = [tmp_path / f"x.json.{socket.gethostname()}.{writer}.tmp" for writer in writers]
    for file in files:
        file.write_bytes(b"half")
    remove_temporary(tmp_path)  # as a training does at its start
    assert list(tmp_path.iterdir()) == files[2:]


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

    def computed(*more: str, folder: str = f"{accented}") -> bool:
        options = ["--run", str(tmp_path / "run"), "--data", folder, "--unless-current", *more]
        command("knn", knn, options)
        return "up to date" not in capsys.readouterr().out

    assert computed() and not computed()
    decomposed = unicodedata.normalize("NFD", f"{accented}/")
    assert not computed("--workers", "1", "--device", "cpu", folder=decomposed)
    assert computed("--k", "5") and not computed("--k", "5") and computed(folder=data)
    os.utime(tmp_path / "run" / "backbone.pt")
    assert computed(folder=data)
    (tmp_path / "run" / "knn.json").write_text("{")
    assert computed(folder=data)


def test_damaged_checkpoints_leave_the_backbone(trained, data, tmp_path, capsys):
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


SLOW = pytest.mark.slow
TRAININGS = {
    "linear": "--epochs 2000 --lr 0.1 --batch 8",
    "few": "--modes finetune --percent 50 --finetune-epochs 2000 --batch 8",
    "detection": f"--iterations 2000 {TINY}",
}


@pytest.mark.parametrize(
    ("name", "number", "to"),
    [
        ("linear", signal.SIGTERM, "group"),
        ("few", signal.SIGUSR1, "group"),
        ("few", signal.SIGTERM, "one"),
        pytest.param("detection", signal.SIGTERM, "group", marks=SLOW),
        pytest.param("detection", signal.SIGTERM, "launch, one", marks=SLOW),
        *(pytest.param(name, signal.SIGTERM, "launch", marks=SLOW) for name in TRAININGS),
    ],
)
def test_a_signal_saves(name, number, to, moco, data, tmp_path):
    """To every process, as `srun --signal` and `scancel` send it, to the main one, and with two
    processes under train.launch; a second one does no harm."""
    images = own_voc(tmp_path / "voc") if name == "detection" else data
    options = ["--weights", moco, "--stem", "small_stride2", "--data", images, "--workers", 2]
    options += [*TRAININGS[name].split(), "--json", tmp_path / "x.json"]
    line = command_line(name, *options, processes=1 + ("launch" in to))
    process = subprocess.Popen(line, start_new_session=True, **PIPES)
    send = os.kill if "one" in to else os.killpg
    while not list(tmp_path.glob("x*-seed0.pt")):  # the first epoch is saved
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    send(process.pid, number)
    time.sleep(0.02)
    if process.poll() is None:
        send(process.pid, number)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert out.count("the same command continues") == 1 and not (tmp_path / "x.json").exists()
    (file,) = tmp_path.glob("x*-seed0.pt")
    state = torch.load(file, weights_only=True)
    assert f"stopped at step {state['step']} of " in out and "optimizer" in state


@pytest.fixture(scope="module")
def inputs(images, moco, tmp_path_factory) -> dict[str, list[str]]:
    """Options of each command, without the output's."""
    root = tmp_path_factory.mktemp("inputs")
    for name in ("train", "val"):
        os.symlink(images / "train", root / name)
    knn = {"evaluation": "knn", "accuracy": {"20": 1.5}}
    (root / "knn.json").write_text(json.dumps(knn))
    masks = images / "masks"
    options = {
        "report": f"{root}/knn.json --out",
        "saliency": f"--images {root}/train --truth {masks} --estimator centre --limit 2 "
        "--examples 1 --workers 0 --json",
        "diagnose": f"--runs {moco} --data {root} --masks {masks} --limit 4 --examples 1 --json",
        "detection": f"--weights {moco} --stem small_stride2 --data {own_voc(root / 'voc')} {TINY} "
        "--iterations 9 --json",
    }
    return {name: text.split() for name, text in options.items()}


def isolated(script: str, *argv: str) -> subprocess.CompletedProcess:
    """Run a shell script where what it mounts is gone afterwards."""
    shell = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    return subprocess.run([*shell, *argv], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("report", "size=8k", "No space left on device"),
        ("saliency", "size=8k", "No space left on device"),
        ("report", "ro", "Read-only file system"),
        pytest.param("detection", "size=64k", "No space left on device", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(inputs, tmp_path, name, options, said):
    if not shutil.which("unshare") or isolated(f"mount -t tmpfs none {tmp_path}").returncode:
        pytest.skip("mounting needs unshare and its rights")
    fill = f"dd if=/dev/zero of={tmp_path}/fill bs=1k 2>/dev/null || true"
    script = f'mount -t tmpfs -o {options} none {tmp_path}; {fill}; exec "$@"'
    done = isolated(script, *command_line(name, *inputs[name], tmp_path / "out.x"))
    error = done.stderr.split("\r")[-1].strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert error.startswith(f"error: {tmp_path}/") and said in error


@pytest.mark.parametrize("name", MODULES)
def test_an_output_that_another_process_writes(inputs, tmp_path, name):
    busy = pytest.raises(UsageError, match=r"out\.x: another (process|evaluation) is writing it")
    with lock(tmp_path / ".out.x.lock"), busy:
        command(name, MODULES[name], [*inputs[name], str(tmp_path / "out.x")])


def test_names_that_are_not_utf8_and_system_files(images, tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/_caf\xe9 $x$"))
    for folder, source in (("images", "train"), ("truth", "masks"), ("maps", "masks")):
        content = (images / source / "class0" / "000.png").read_bytes()
        for name in ("\udce9 1.png", "._\udce9 1.png", ".ipynb_checkpoints/\udce9 1.png"):
            file = root / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"system's" if name.startswith(".") else content)
    places = {"--images": "images", "--truth": "truth", "--maps": "maps", "--json": "out.json"}
    options = [part for flag, name in places.items() for part in (flag, root / name)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    line = command_line("saliency", *options)
    done = subprocess.run(line, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((root / "out.json").read_text())
    assert result["paths"] == ["\udce9 1.png"]
    (entry,) = result["estimators"].values()
    assert entry["mae"] == 0
