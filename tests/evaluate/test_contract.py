"""What holds for every evaluation as a command: seeds, its one JSON, signals, disks, names."""

import json
import os
import re
import shutil
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data import cli
from data.io import lock, remove_temporary
from evaluate.backgrounds import variants
from evaluate.common import reserved
from evaluate.probes import knn
from tests.conftest import execute, mounted, refused, start, wait_for
from tests.evaluate.folders import TINY, command_line, evaluate, own_voc
from train.checkpoint import CHECKPOINTS

WRONG = {
    "nope": "no evaluation 'nope'",
    "knn --data d --run nowhere": "no run here",
    "knn --data d --weights nowhere.pth": "no such file of weights",
    "knn --data d --run=": "give either --run RUN or --weights FILE",
    "knn {knn} --device mps": "--device mps: ",
    "knn {knn} --seeds 0": "--seeds 0",
    "knn {knn} {bad}": "/bad.png: .*; remove or repair that image",
    "linear {linear} {bad}": "/bad.png: .*; remove or repair that image",
    "few {few} --percent 0": "--percent",
    "few {few} --modes": "--modes: give",
    "few {few} --labels-list a/1percent.txt b/1percent.txt": "two lists of one name",
    "few {few} --batch 0": "--batch 0",
    "few {few} --labels-list a.txt --percent 50": "--percent has no effect with --labels-list",
    "linear {linear} --sweep-lr 1": "--sweep-lr has no effect in MoCo's protocol",
    "linear --run r-s{{seed}} --seeds 2 --data d": "seeds of `linear` are of its own draws",
    "in9 {in9} --l2 1": "--l2 has no effect without --train",
    "saliency {saliency} --estimator= --maps m --refine x": "--refine has no effect with --maps",
    "knn {knn} --temperature nan": "--temperature nan: must be above 0 and finite",
    "linear {linear} --sweep --epochs 2 --sweep-lr 1e38 3e38": "every rate diverges",
    "in9 {in9} --data /proc": "needs at least mixed_same/val and mixed_rand/val",
    "detection {detection} --model mask": "--model mask needs outlines",
    "detection {detection} --size 224": "--size is of crops",
    "detection {detection} --batch 0": "--batch 0",
    "detection {detection} --scales 8": "short sides from 16",
    "detection {detection} --dataset coco": "annotations/instances_train2017.json",
    "saliency {saliency} --estimator rdb": "no estimator 'rdb'",
    "saliency {saliency} --estimator=": "either --estimator",
    "saliency {saliency} --truth /nowhere": "/nowhere: no such folder",
    "saliency {saliency} --refine crf": "no refinement",
    "saliency {saliency} --limit 0": "--limit",
    "diagnose --data d": "give --runs",
    "diagnose {diagnose} --k 0": "--k",
    "diagnose {diagnose} --masks /nowhere": "no such mask",
    "report": "at least one run",
    "report {report} --out {json}": "is read, and would be replaced",
    "knn {knn} --json /proc": "/proc: a folder; give the name of a file",
    "report nowhere": "nowhere: no such run folder",
}
SLOW = pytest.mark.slow
TRAININGS = {
    "linear": "--epochs 2000 --lr 0.1 --batch 8",
    "few": "--modes finetune --percent 50 --finetune-epochs 2000 --batch 8",
    "detection": "--iterations 2000",
}
SIGNALS = ["linear SIGTERM group", "few SIGUSR1 group", "few SIGTERM one"]
LONG = ["detection SIGTERM group", "detection SIGTERM launch,one"]
LONG += [f"{name} SIGTERM launch" for name in TRAININGS]
SIGNALS += [pytest.param(case, marks=SLOW) for case in LONG]
DISKS = ["report size=8k", "saliency size=8k", "report ro"]
DISKS += [pytest.param("detection size=64k", marks=SLOW)]


@pytest.fixture(scope="module")
def inputs(images, data, moco, trained, tmp_path_factory) -> dict[str, str]:
    """Each command's options, its output in the folder that it is run in."""
    root, masks = tmp_path_factory.mktemp("inputs"), images / "masks"
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (root / folder).mkdir(parents=True)
        (root / folder / "bad.png").write_bytes(b"nothing")
    (root / "knn.json").write_text('{"evaluation": "knn", "accuracy": {"20": 1.5}}')
    network = f"--weights {moco} --stem small_stride2 --workers 0 --json out.x.json --data "
    scored = f"--images {data}/val --truth {masks} --estimator centre --limit 2 --examples 1"
    diagnosed = f"--runs {trained} --data {data} --masks {masks} --limit 4"
    return {
        **dict.fromkeys(("knn", "linear", "few", "in9"), f"{network} {data}"),
        "detection": f"{network} {own_voc(root / 'voc')} {TINY} --iterations 9",
        "report": f"{root}/knn.json --out out.x",
        "bad": f"--data {root}",
        "json": f"{root}/knn.json",
        "saliency": f"{scored} --workers 0 --json out.x",
        "diagnose": f"{diagnosed} --workers 0 --json out.x",
    }


def test_seeds_repeat_over_runs(trained, data, tmp_path):
    """Against the single evaluations; a second run's first layer is turned."""
    for seed in range(2):
        shutil.copytree(trained, tmp_path / f"run-s{seed}")
    file = tmp_path / "run-s1" / "backbone.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {"conv1.weight": state["conv1.weight"].flip(1, 2)}, file)
    arguments = knn.Arguments(f"{tmp_path}/run-s{{seed}}", data, k=(20,), seeds=2, workers=0)
    runs = [replace(arguments.with_seed(seed), seeds=1) for seed in range(2)]
    each = [knn.evaluate(run)["accuracy"]["20"] for run in runs]
    assert arguments.result_file() == tmp_path / "run-s0-1" / "knn.json"
    both = knn.evaluate(arguments)
    assert each[0] != each[1] and both["protocol"]["seeds_over"] == "runs"
    assert both["accuracy"]["20"] == pytest.approx(np.mean(each))
    assert both["deviation"]["20"] == pytest.approx(np.std(each, ddof=1))
    assert [values["20"] for values in both["per_seed"]] == each
    # over first weights, or nothing changes
    untrained = {"run": trained, "data": data, "untrained": True, "workers": 0}
    fresh = variants.evaluate(variants.Arguments(**untrained, seeds=3))
    first = variants.evaluate(variants.Arguments(**untrained))
    assert fresh["per_seed"][0] == first["accuracy"]
    assert fresh["protocol"]["seeds_over"] == "first weights"
    assert len({values["biased"]["original"] for values in fresh["per_seed"]}) > 1
    same = knn.evaluate(knn.Arguments(trained, data, k=(1,), seeds=3, workers=0))
    assert set(same["deviation"].values()) == {0}
    assert same["protocol"]["seeds_over"] == "nothing that a seed changes"
    assert same["accuracy"]["1"] == same["accuracy"]["head 1"] == 100  # every query is banked


@pytest.mark.parametrize("closed", [True, False])
def test_the_result_is_on_disk_before_it_is_printed(closed, trained, data, tmp_path):
    """Also into a pipe that is closed; on a terminal without the letters of the name."""
    file = tmp_path / "é\udcff.json"
    line = command_line("knn", "--run", trained, "--data", data, "--json", file)
    process = start(line, env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    if closed:
        process.stdout.close()
    out, errors = process.communicate()
    assert process.returncode == (2 if closed else 0), errors
    assert json.loads(file.read_text())["evaluation"] == "knn"
    assert ("results are on disk" in errors) == closed
    shown = ("k=200  top-1", "(the bank has 80)", "temperature 0.07")
    assert closed or all(text in out for text in shown)


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_leaves_nothing(line, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((cli.UsageError, FileNotFoundError), match=WRONG[line]):
        evaluate(line.format(**inputs))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("name", ["knn", "report", "saliency", "diagnose", "detection"])
def test_an_output_that_another_process_writes(name, inputs, tmp_path, monkeypatch):
    """Nor are x and x.json written at once, which have the same files beside them."""
    monkeypatch.chdir(tmp_path)
    with lock(".out.x.lock"):
        busy = refused(evaluate, f"{name} {inputs[name]}")
    assert re.search(r"out\.x.*: another (process|evaluation) is writing it", busy)


def test_a_training_leaves_what_an_evaluation_beside_it_writes(tmp_path):
    ended, host = 1 << 22, socket.gethostname()  # no process has that number
    writers = (ended, os.getpid(), os.getppid())
    files = [tmp_path / f"x.json.{host}.{writer}.tmp" for writer in writers]
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
    assert knn.Arguments("r", "d", json_file="x.out").kept_file(0).name == "x.out-seed0.pt"


def test_a_current_result_is_left(trained, data, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    accented = tmp_path / "données"
    shutil.copytree(data, accented, symlinks=True)

    def computed(options: str) -> bool:
        evaluate(f"knn --run {tmp_path}/run --workers 0 --unless-current --data {options}")
        return "up to date" not in capsys.readouterr().out

    assert computed(f"{accented}") and not computed(f"{accented}")
    assert not computed(f"{accented}/ --workers 1 --device cpu")
    assert computed(f"{accented} --k 5") and not computed(f"{accented} --k 5") and computed(data)
    os.utime(tmp_path / "run" / "backbone.pt", (1, 1))  # another one, which `cp -p` brought
    assert computed(data) and computed(f"{accented}")
    (accented / "val").unlink()
    shutil.copytree(Path(data, "val"), accented / "val")
    (accented / "val" / "class0" / "000.png").unlink()
    assert computed(f"{accented}") and not computed(f"{accented}") and computed(data)
    file = tmp_path / "run" / "knn.json"
    result = json.loads(file.read_text())
    del result["inputs"]  # as of an earlier version, which compared times
    file.write_text(json.dumps(result))
    assert not computed(data) and computed(f"{data} --k 5")
    file.write_text("{")
    assert computed(data)


def test_damaged_checkpoints_leave_the_backbone(trained, data, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for file in [*(folder / CHECKPOINTS).glob("*.pt"), folder / "head.pt"]:
        file.write_bytes(b"damaged")
    evaluate(f"knn --run {folder} --data {data}")
    printed = capsys.readouterr()
    assert "its head is missing" in printed.err
    assert "backbone features" in printed.out and "head features  " not in printed.out


@pytest.mark.parametrize("case", SIGNALS)
def test_a_signal_saves(case, inputs, tmp_path):
    """To every process, as `scancel` does, or to the main one; a second one does no harm."""
    name, number, to = case.split()
    options = f"{inputs[name]} {TRAININGS[name]} --workers 2 --json {tmp_path}/x.json".split()
    line = command_line(name, *options, processes=1 + ("launch" in to))
    process = start(line)
    send, number = os.kill if "one" in to else os.killpg, signal.Signals[number]
    wait_for(lambda: list(tmp_path.glob("x*-seed0.pt")), process)  # the first epoch is saved
    for _ in range(2):
        send(process.pid, number)
        time.sleep(0.02)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert out.count("the same command continues") == 1 and not (tmp_path / "x.json").exists()
    (file,) = tmp_path.glob("x*-seed0.pt")
    state = torch.load(file, weights_only=True)
    assert f"stopped at step {state['step']} of " in out and "optimizer" in state


@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_takes_nothing_is_one_line(inputs, tmp_path, disk):
    name, options = disk.split()
    said = "Read-only file system" if options == "ro" else "No space left on device"
    tmpfs = f"mount -t tmpfs -o {options} none {tmp_path}"
    fill = f"dd if=/dev/zero of={tmp_path}/fill bs=1k 2>/dev/null || true"
    line = inputs[name].replace("out.x", f"{tmp_path}/out.x").split()
    done = mounted(command_line(name, *line), tmpfs, fill)
    error = done.stderr.split("\r")[-1].strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert error.startswith(f"error: {tmp_path}/") and said in error


def test_names_that_are_not_utf8_and_system_files(images, tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/_caf\xe9 $x$"))
    folders = {"images": "train", "truth": "masks", "maps": "masks"}
    for folder, source in folders.items():
        content = (images / source / "class0" / "000.png").read_bytes()
        for name in ("\udce9 1.png", "._\udce9 1.png", ".ipynb_checkpoints/\udce9 1.png"):
            file = root / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"system's" if name.startswith(".") else content)
    options = [part for name in folders for part in (f"--{name}", root / name)]
    line = command_line("saliency", *options, "--json", root / "out.json")
    done = execute(line, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"}, text=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((root / "out.json").read_text())
    assert result["paths"] == ["\udce9 1.png"]
    (entry,) = result["estimators"].values()
    assert entry["mae"] == 0
