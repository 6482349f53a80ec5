"""What real surroundings do to a training: signals, kills, full disks, losses that diverge."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from signal import SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, getsignal

import numpy as np
import pytest
import torch

from data.stopping import SIGNALS
from tests.conftest import children, mounted, refused, start, wait_for
from tests.train.runs import command_line, config, log, losses, wait_for_steps
from train import checkpoint
from train.loop import train

EARLY = [("imports", SIGTERM), ("imports", SIGINT), ("workers", SIGUSR1)]
STEPS = [("steps", n) for n in SIGNALS if (n, getsignal(n)) != (SIGHUP, SIG_IGN)]  # by nohup
LAUNCH = [sys.executable, "-m", "train.launch", "--standalone", "--nproc-per-node"]


def handles_signals(pid: int) -> int:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return int(caught, 16) >> (SIGUSR1 - 1) & 1


def end(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    said, errors = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in errors, errors
    return said, errors


@pytest.mark.parametrize(("moment", "number"), [*EARLY, *STEPS])
def test_a_signal_to_every_process_of_the_job_saves(images, truth_cache, tmp_path, moment, number):
    """As srun --signal, scancel and a terminal's Ctrl-C send it; a second one does no harm."""
    out = tmp_path / "run"
    command = command_line(config(images, truth_cache, out, workers=2, epochs=40))
    process = start(command)
    if moment == "steps":
        wait_for_steps(out, 3)
    else:  # it has its handlers and imports, or has begun to start its workers
        reached = {"imports": handles_signals, "workers": children}[moment]
        wait_for(lambda: reached(process.pid), process)
    for _ in range(2 if moment == "steps" and number != SIGINT else 1):
        os.killpg(process.pid, number)
    said, _ = end(process, 130 if number == SIGINT else 0)
    assert "stopped" in said and "; the same command" in said
    assert moment != "steps" or "saved; the same command continues" in said
    if (moment, number) == ("steps", SIGTERM):
        step = checkpoint.newest(out)["step"]
        assert f"continuing {out} at step {step} of 200" in end(start(command))[0]


def test_a_launcher_ends_as_its_processes_do():
    process = start([*LAUNCH, "1", "-m", "train"])
    wait_for(lambda: handles_signals(process.pid), process)
    process.terminate()
    assert end(process)[1] == "stopped before the first process was started\n"
    replay = ["/nowhere", "--out", "/nowhere/run", "--device", "cpu", "--replay", "FILE"]
    errors = end(start([*LAUNCH, "2", "-m", "train", *replay]), 2)[1]
    assert "error: --replay: shows a whole batch on one process" in errors


def test_a_signal_to_every_process_under_a_launcher_saves(images, truth_cache, tmp_path):
    """torchrun itself ends with an error whatever its processes do; train.launch does not."""
    settings = config(images, truth_cache, tmp_path, workers=1, epochs=40)
    process = start([*LAUNCH, "2", *command_line(settings)[1:]])
    wait_for_steps(tmp_path, 3)
    os.killpg(process.pid, SIGTERM)
    assert "saved; the same command continues" in end(process)[0]
    assert checkpoint.newest(tmp_path)["step"] >= 3


def test_a_killed_worker_costs_nothing(images, truth_cache, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(config(images, truth_cache, whole, epochs=12))
    process = start(command_line(config(images, truth_cache, out, workers=2, epochs=12)))
    wait_for_steps(out, 1)
    os.kill(children(process.pid)[-1], SIGKILL)
    end(process)
    assert losses(out) == losses(whole)


def test_images_that_are_gone_for_a_while_cost_nothing(images, truth_cache, tmp_path):
    folder, out = shutil.copytree(images / "train", tmp_path / "train"), tmp_path / "run"
    process = start(command_line(config(tmp_path, truth_cache, out, epochs=40)))
    wait_for_steps(out, 3)
    folder.rename(tmp_path / "gone")
    errors, step = end(process, 2)[1], checkpoint.newest(out)["step"]
    assert f"saved at step {step}; " in errors and step >= 3


@pytest.mark.slow
def test_small_shared_memory(images, truth_cache, tmp_path):
    """Docker's is 64 MB: batches ahead are as many as fit, and workers by default; where a number
    was given that does not fit, one line says so."""
    fits = command_line(config(images, truth_cache, tmp_path / "fits", workers=1, epochs=1))
    done = mounted(fits, "mount -t tmpfs -o size=500k tmpfs /dev/shm")
    assert done.returncode == 0, done.stderr
    assert "/dev/shm is small: each worker prepares 3 of 4 batches ahead" in done.stderr
    large = {"workers": 2, "size": 224, "epochs": 1}
    command = command_line(config(images, truth_cache, tmp_path / "large", **large))
    for mount in ("mount -t tmpfs -o size=8m tmpfs /dev/shm", "mount -o remount,ro,bind /dev/shm"):
        done = mounted(command, mount)
        *_, error = done.stderr.strip().splitlines()
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert re.match("error: /dev/shm.*--shm-size.*--workers", error), error
        where = command.index("--workers")
        chosen = [*command[:where], *command[where + 2 :], "--out", tmp_path / str(len(mount))]
        done = mounted(chosen, mount)
        assert done.returncode == 0 and "/dev/shm has room for" in done.stderr, done.stderr


@pytest.mark.parametrize("disk", ["size=60k", "size=700k", "ro"])
def test_a_disk_that_is_full_or_read_only_is_one_line(images, truth_cache, tmp_path, disk):
    (tmp_path / "disk").mkdir()
    settings = config(images, truth_cache, tmp_path / "disk" / "run", epochs=8, width=8)
    mount = f"mount -t tmpfs -o {disk} tmpfs {tmp_path / 'disk'}"
    done = mounted(command_line(settings), mount)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    why = "Read-only file system" if disk == "ro" else "No space left on device"
    assert why in error and str(tmp_path / "disk") in error


def test_a_loss_that_is_not_finite_is_never_saved(images, truth_cache, tmp_path, capsys):
    """Noticed at its step, between two lines of the log; the advice of the message is accepted."""
    out = tmp_path / "run"

    def run(**changes: object) -> bool:
        return train(config(images, truth_cache, out, log_every=20, **changes))

    train(config(images, truth_cache, out, log_every=20), stop_at=6)
    broken = checkpoint.newest(out)
    broken["model"]["query.fc.0.weight"].fill_(torch.nan)  # the next step's loss is not finite
    checkpoint.save_step(out, broken, 2)
    assert re.search("finite at step 7; .*step-000000006.pt is kept.*--lr", refused(run))
    assert checkpoint.newest(out)["step"] == 6 and not (out / "backbone.pt").exists()
    assert "another configuration (lr: 0.06 -> 0.5)" in refused(run, lr=0.5)
    checkpoint.steps(out)[-1].unlink()
    file = out / "diverged.json"
    what = json.loads(file.read_text())
    assert what["step"] == 7 and what["seed"] == 0 and len(set(what["indices"])) == 16
    assert run(replay=str(file)) is False
    assert "step 7: 16 images" in capsys.readouterr().out and (out / "replay.png").exists()
    assert run(lr=0.03) is True
    content = json.loads((out / "config.json").read_text())
    assert content["lowered"] == [{"from": 0.06, "to": 0.03}] and content["config"]["lr"] == 0.03
    assert all(np.isfinite(losses(out))) and not file.exists()


def test_a_replay_takes_only_its_run_and_leaves_it_as_it_is(images, tmp_path):
    out, wrong = tmp_path / "run", tmp_path / "wrong.json"
    file = out / "diverged.json"

    def run(folder: Path, replay: Path | None, **changes: object) -> bool:
        given = {"epochs": 1, "weight_decay": 1e30, "replay": replay and str(replay)}
        return train(config(images, "none", folder, **given | changes), stop_at=1)

    # the last step's loss is finite, and what it leaves behind is not
    assert re.search("not finite at step .* add --lr 5e", refused(run, out, None, lr=1e30))
    assert not checkpoint.steps(out)
    before, content = (out / "config.json").read_text(), json.loads(file.read_text())
    assert run(out, file, lr=5e29) is False  # both pieces of the message's advice
    cases = {"[]": "not a run's diverged.json"}
    for change in ({"seed": 7}, {"indices": [999]}):
        cases[json.dumps(content | change)] = "not those of this run's step 1"
    for step in (0, -3, 6, 1e999, []):
        cases[json.dumps(content | {"step": step})] = "is none of this run's 1 to 5"
    for text, message in cases.items():
        wrong.write_text(text)
        assert message in refused(run, out, wrong, lr=1e30)
    assert file.exists() and (out / "config.json").read_text() == before
    assert "no run here" in refused(run, tmp_path / "new", file)
    assert not (tmp_path / "new").exists()


def test_a_second_training_in_the_folder_is_told_so(images, truth_cache, tmp_path):
    out = tmp_path / "run"
    command = command_line(config(images, truth_cache, out, epochs=1000))
    first = start(command)
    wait_for_steps(out, 3)
    assert "another training is under way" in end(start(command), 2)[1]
    first.send_signal(SIGTERM)
    assert "saved" in end(first)[0]
    steps = [line["step"] for line in log(out)]
    assert steps == list(range(1, len(steps) + 1))


def test_too_little_memory_is_one_line(images, tmp_path):
    assert "too little memory (" in refused(train, config(images, "none", tmp_path, queue=10**9))
