"""What real surroundings do to a training: signals, killed workers, small and full file systems,
losses that are not finite, two trainings in one folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cli import UsageError
from tests.conftest import scene
from tests.train.runs import TORCHRUN, command_line, config, log, losses, wait_for_steps
from train import checkpoint
from train.dataset import open_training_set
from train.log import Log
from train.loop import train
from train.run import begin

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(command: list[str]) -> subprocess.Popen:
    """A command in a process group of its own, as a job manager starts it."""
    pipe = subprocess.PIPE
    options = {"stdout": pipe, "stderr": pipe, "text": True, "env": ENVIRONMENT}
    return subprocess.Popen(command, start_new_session=True, **options)


def mounted(command: list[str], *mounts: str) -> subprocess.CompletedProcess:
    """Run a command with file systems of its own; skip where that is not allowed."""
    unshare = ["unshare", "--mount", "bash", "-ec"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("needs unshare --mount")
    script = "\n".join([*mounts, 'exec "$@"'])
    return subprocess.run(
        [*unshare, script, "x", *command], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_every_process_of_the_job_saves(images, truth_cache, tmp_path, number):
    """As srun --signal, scancel and a terminal's Ctrl-C send it; a second one does no harm."""
    out = tmp_path / "run"
    command = command_line(config(images, truth_cache, out, workers=2, epochs=40))
    process = start(command)
    wait_for_steps(out, 3)
    os.killpg(process.pid, number)
    if number != signal.SIGINT:
        os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 0), errors
    assert "saved; the same command continues" in said and "Traceback" not in errors
    step = checkpoint.newest(out)["step"]
    if number == signal.SIGTERM:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and f"continuing {out} at step {step} of 200" in done.stdout


def reached(pid: int, moment: str) -> bool:
    """Whether a process has its handlers and imports, or has begun to start its workers."""
    if moment == "workers":
        return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.parametrize(
    ("moment", "number"),
    [("imports", signal.SIGTERM), ("imports", signal.SIGINT), ("workers", signal.SIGUSR1)],
)
def test_a_signal_before_the_first_step(images, truth_cache, tmp_path, moment, number):
    process = start(command_line(config(images, truth_cache, tmp_path / "run", workers=2)))
    deadline = time.monotonic() + 60
    while not reached(process.pid, moment) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 0), errors
    assert "stopped" in said and "; the same command" in said and "Traceback" not in errors


def test_a_signal_to_a_launcher_that_has_started_nothing():
    process = start([sys.executable, "-m", "train.launch", "--standalone", "-m", "train"])
    while not reached(process.pid, "imports"):
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == "stopped before the first process was started\n"


def test_a_launcher_ends_with_the_code_of_a_process_that_failed():
    program = ["-m", "train.launch", "--standalone", "-m", "data", "list", "/nowhere"]
    process = start([sys.executable, *program])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in errors
    assert "error: /nowhere: no such folder of images" in errors


@pytest.mark.parametrize("launcher", [TORCHRUN, [sys.executable, "-m", "train.launch"]])
def test_a_signal_to_every_process_under_torchrun_saves(images, truth_cache, tmp_path, launcher):
    """torchrun itself ends with an error whatever its processes do; train.launch does not."""
    out = tmp_path / "run"
    options = ["--standalone", "--nproc-per-node", "2"]
    settings = config(images, truth_cache, out, workers=1, epochs=40)
    process = start([*launcher[:3], *options, *command_line(settings)[1:]])
    wait_for_steps(out, 3)
    os.killpg(process.pid, signal.SIGTERM)
    said, errors = process.communicate(timeout=120)
    assert "saved; the same command continues" in said
    assert checkpoint.newest(out)["step"] >= 3
    if launcher is not TORCHRUN:
        assert process.returncode == 0 and "Traceback" not in errors, errors


def test_a_killed_worker_costs_nothing(images, truth_cache, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(config(images, truth_cache, whole, epochs=12))
    process = start(command_line(config(images, truth_cache, out, workers=2, epochs=12)))
    wait_for_steps(out, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert losses(out) == losses(whole)


@pytest.mark.slow
def test_small_shared_memory(images, truth_cache, tmp_path):
    """Docker's is 64 MB: batches ahead are as many as fit, and where none fits one line says so."""
    fits = command_line(config(images, truth_cache, tmp_path / "fits", workers=1, epochs=1))
    done = mounted(fits, "mount -t tmpfs -o size=500k tmpfs /dev/shm")
    assert done.returncode == 0, done.stderr
    assert "/dev/shm is small: each worker prepares 3 of 4 batches ahead" in done.stderr
    large = {"workers": 2, "size": 224, "epochs": 1}
    command = command_line(config(images, truth_cache, tmp_path / "large", **large))
    for mount in ("mount -t tmpfs -o size=8m tmpfs /dev/shm", "mount -o remount,ro,bind /dev/shm"):
        done = mounted(command, mount)
        errors = done.stderr.strip().splitlines()
        assert done.returncode == 2 and errors[-1].startswith("error: /dev/shm"), done.stderr
        assert "--shm-size" in errors[-1] and "--workers" in errors[-1], done.stderr
        assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_is_never_saved(images, truth_cache, tmp_path, capsys):
    """Noticed at its step, between two lines of the log; the advice of the message is accepted."""
    out = tmp_path / "run"
    assert train(config(images, truth_cache, out, log_every=20), stop_at=6) is False
    broken = checkpoint.newest(out)
    broken["model"]["query.fc.0.weight"].fill_(torch.nan)  # the next step's loss is not finite
    checkpoint.save_step(out, broken, 2)
    bad = config(images, truth_cache, out, log_every=20)
    with pytest.raises(
        UsageError, match=r"not finite at step 7; .*step-000000006.pt is kept.*--lr"
    ):
        train(bad)
    assert checkpoint.newest(out)["step"] == 6 and not (out / "backbone.pt").exists()
    higher = config(images, truth_cache, out, log_every=20, lr=0.5)
    with pytest.raises(UsageError, match=r"another configuration \(lr: 0.06 -> 0.5\)"):
        train(higher)
    checkpoint.steps(out)[-1].unlink()
    file = out / "diverged.json"
    what = json.loads(file.read_text())
    assert what["step"] == 7 and what["seed"] == 0 and len(set(what["indices"])) == 16
    assert train(config(images, truth_cache, out, replay=str(file))) is False
    assert "step 7: 16 images" in capsys.readouterr().out and (out / "replay.png").exists()
    assert train(config(images, truth_cache, out, log_every=20, lr=0.03)) is True
    content = json.loads((out / "config.json").read_text())
    assert content["lowered"] == [{"from": 0.06, "to": 0.03}] and content["config"]["lr"] == 0.03
    assert all(np.isfinite(losses(out))) and not (out / "diverged.json").exists()


def test_weights_that_are_not_finite_are_not_saved_either(images, tmp_path):
    """The last step's loss is finite, and what it leaves behind is not."""
    out = tmp_path / "run"
    settings = config(images, "none", out, epochs=1, lr=1e30, weight_decay=1e30)
    with pytest.raises(UsageError, match="not finite at step"):
        train(settings, stop_at=1)
    assert not checkpoint.steps(out)


def test_a_second_training_in_the_folder_is_told_so(images, truth_cache, tmp_path):
    out = tmp_path / "run"
    command = command_line(config(images, truth_cache, out, epochs=1000))
    first = start(command)
    wait_for_steps(out, 3)
    second = subprocess.run(command, capture_output=True, text=True)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert second.returncode == 2 and "another training is under way" in second.stderr
    assert first.returncode == 0 and "saved" in said
    steps = [line["step"] for line in log(out)]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("size", ["60k", "700k"])
def test_a_full_disk_is_one_line(images, truth_cache, tmp_path, size):
    (tmp_path / "disk").mkdir()
    settings = config(images, truth_cache, tmp_path / "disk" / "run", epochs=8, width=8)
    mount = f"mount -t tmpfs -o size={size} tmpfs {tmp_path / 'disk'}"
    done = mounted(command_line(settings), mount)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in errors[0] and str(tmp_path / "disk") in errors[0]


def test_a_read_only_folder_is_one_line(images, tmp_path):
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path / 'disk'}"
    done = mounted(command_line(config(images, "none", tmp_path / "disk" / "run")), mount)
    assert done.returncode == 2 and "Read-only file system" in done.stderr
    assert str(tmp_path / "disk" / "run") in done.stderr and "Traceback" not in done.stderr


def test_what_dead_processes_left_is_removed(images, truth_cache, tmp_path):
    out = tmp_path / "run"
    train(config(images, truth_cache, out), stop_at=2)
    left = [out / "backbone.pt.host.1.tmp", out / "checkpoints" / "step-000000003.pt.host.1.tmp"]
    for file in left:
        file.write_bytes(b"half")
    assert train(config(images, truth_cache, out)) is True
    assert not any(file.exists() for file in left)


@pytest.mark.parametrize("changes", [{}, {"control": "shuffled"}, {"crop_keeps": 0.2}])
def test_masks_that_cannot_be_pasted_are_counted_and_refused(
    images, truth_cache, tmp_path, changes, monkeypatch
):
    settings = config(images, truth_cache, tmp_path / "run", **changes)
    assert open_training_set(settings).usable.startswith("80 of 80 images can be pasted")
    narrow = config(images, truth_cache, "", mask_coverage=(0.1, 1.0), **changes)
    assert 0 < int(open_training_set(narrow).usable.split()[0]) < 80
    failed = Cache(truth_cache)
    failed.status = np.ones_like(failed.status)
    monkeypatch.setattr("train.dataset.Cache", lambda folder: failed)
    with pytest.raises(UsageError, match=r"none of the 80 images can be pasted: 80 have no mask"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_instdiscs_bank_learns_what_was_really_read(tmp_path):
    """A broken image's neighbour takes its place, under its own number."""
    (tmp_path / "train").mkdir()
    for i in range(16):
        cv2.imwrite(str(tmp_path / "train" / f"{i:02d}.png"), scene(i)[0])
    (tmp_path / "train" / "05.png").write_bytes(b"broken")
    method = {"method": "instdisc", "negatives": 8, "splits": 1, "lr": 0.001}
    settings = config(tmp_path, "none", tmp_path / "run", epochs=1, **method)
    before = begin(settings, 16, torch.device("cpu")).method.bank
    train(settings)
    moved = (checkpoint.newest(tmp_path / "run")["model"]["bank"] != before).any(1)
    assert moved.tolist() == [i != 5 for i in range(16)]
    assert log(tmp_path / "run")[-1]["replaced"] == 1


def test_too_little_memory_is_one_line(images, tmp_path):
    with pytest.raises(UsageError, match=r"too little memory \(.*allocate"):
        train(config(images, "none", tmp_path / "run", queue=10**9))


def test_damaged_lines_of_the_log_are_left_out(tmp_path):
    written = Log(tmp_path, 0)
    written.write(1, loss=1.0)
    written.close()
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(b'{"step": 2, "loss": \xff\xfe}\n{"step": 3, "lo')
    Log(tmp_path, 5).close()
    assert log(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_program_folder_and_a_home_that_cannot_be_written(images, tmp_path, monkeypatch):
    """As in containers: compiled kernels go to a temporary folder."""
    root = Path(__file__).parents[2]
    for name, folder in (("HOME", "/proc"), ("TMPDIR", str(tmp_path))):
        monkeypatch.setenv(name, folder)
    command = command_line(config(images, "none", tmp_path / "run", epochs=1))
    done = mounted(command, f"mount --bind {root} {root}", f"mount -o remount,ro,bind {root}")
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.glob(f"dilo-kernels-{os.getuid()}/**/*.nbi"))
