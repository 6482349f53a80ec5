"""The Makefile as people meet it: help, missing variables, names of files, signals, and what clean
leaves alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import BARE, read_only

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")

# in place of Python, it writes its arguments to $SEEN; with --wait it goes on until a signal
PROGRAM = f"""#!{sys.executable}
import json, os, signal, sys, time
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
with open(os.environ["SEEN"], "w") as file:
    json.dump(sys.argv[1:], file)
while "--wait" in sys.argv and not stopped:
    time.sleep(0.02)
if stopped:
    open(os.environ["SEEN"] + ".saved", "w").close()
"""


def environment(**more: str) -> dict[str, str]:
    # the tests themselves run under `make test ARGS=...`, and a make below a make prints more
    inherited = ("MAKE", "MFLAGS", "ARGS")
    return {k: v for k, v in os.environ.items() if not k.startswith(inherited)} | more


def make(*arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
    options = {"cwd": cwd, "capture_output": True, "text": True, "env": environment(**more)}
    return subprocess.run(["make", *arguments], **options)


@pytest.fixture
def program(tmp_path) -> Path:
    (tmp_path / "python").write_text(PROGRAM)
    (tmp_path / "python").chmod(0o755)
    return tmp_path / "python"


@pytest.fixture
def arguments_of(program):
    """(make's arguments) -> what Python was given."""

    def call(*arguments: str) -> list[str]:
        seen = program.with_name("seen")
        done = make("-s", *arguments, "READY=", f"PY={program}", SEEN=str(seen))
        assert done.returncode == 0, done.stderr
        return json.loads(seen.read_text())

    return call


def test_make_alone_prints_every_command_with_one_line():
    text = (ROOT / "Makefile").read_text()
    rules = [line.split(":")[0] for line in text.splitlines() if re.match(r"[a-z0-9-]+:", line)]
    printed = make().stdout.splitlines()
    assert [line.split()[1] for line in printed] == rules and "pretrain" in rules
    assert all(len(line.split(maxsplit=2)) == 3 for line in printed)
    phony = re.search(r"^\.PHONY: (.*)", make("-pn", "help").stdout, re.M)[1].split()
    assert set(rules) <= set(phony)  # a file of that name would keep any other from running


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("masks", "masks needs IMAGES=..."),
        ("masks IMAGES=x", "masks needs CACHE=..."),
        ("pretrain IMAGES=x", "pretrain needs RUN=..."),
        ("detection WEIGHTS=x", "detection needs DATA=..."),
        ("export OUT=x", "export needs RUN=..."),
        ("knn RUN=x", "knn needs DATA=..."),
    ],
)
def test_a_missing_variable_is_one_line_and_exit_code_2(command, missing):
    done = make(*command.split())
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and missing in done.stderr


NAME = "runs/a 2026-11-27T10:00 50%#1 é 'b' \"c\" $d `e` (f), g\\"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "masks IMAGES CACHE LIST WEIGHTS",
            "preprocess IMAGES CACHE|--list LIST|--weights WEIGHTS",
        ),
        ("pack IMAGES OUT LIST", "data pack IMAGES OUT|--list LIST"),
        ("pretrain IMAGES CACHE RUN", "train IMAGES --masks CACHE|--out RUN"),
        ("pretrain IMAGES MASKS RUN", "train IMAGES --masks MASKS|--out RUN"),
        ("pretrain IMAGES RUN LIST", "train IMAGES --masks none|--out RUN|--list LIST"),
        ("knn RUN DATA", "evaluate knn --unless-current --run RUN --data DATA"),
        ("linear RUN DATA", "evaluate linear --unless-current --run RUN --data DATA"),
        ("backgrounds RUN DATA", "evaluate backgrounds --unless-current --run RUN --data DATA"),
        ("detection RUN DATA", "evaluate detection --run RUN --data DATA"),
        ("export WEIGHTS OUT", "evaluate export|--weights WEIGHTS --out OUT"),
        ("diagnose RUNS DATA", "evaluate diagnose --runs RUNS --data DATA"),
        ("report RUNS OUT", "evaluate report RUNS --out OUT"),
        ("bench-gpu DILO_SHARED", "--images DILO_SHARED/data/imagenet_sample"),
    ],
)
def test_names_of_any_characters_reach_the_commands_whole(arguments_of, command, expected):
    target, *variables = command.split()
    names = {f"{NAME}-{v}": v for v in variables}
    # in a list of names a blank of a name follows a backslash
    as_typed = {v: n.replace(" ", "\\ ") if v == "RUNS" else n for n, v in names.items()}
    given = arguments_of(target, *(f"{v}={name}" for v, name in as_typed.items()))
    shown = " ".join(given)
    for name, variable in names.items():
        shown = shown.replace(name, variable)
    assert all(part in shown for part in expected.split("|")), given


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "masks IMAGES=x CACHE=c ESTIMATOR=spectral SIDE=64 WORKERS=16",
            "x c --estimator spectral --refine none --side 64 --shard-size 4096 --workers 16",
        ),
        (
            "masks IMAGES=x CACHE=c WEIGHTS=n DEVICE=cuda BATCH=64 PRECISION=bf16 PART=1/4",
            "--part 1/4 --weights n --device cuda --batch 64 --precision bf16",
        ),
        ("pretrain IMAGES=x RUN=r ARGS=--dry", "--masks none --preset moco_v2 --out r"),
        (
            "detection WEIGHTS=w DATA=d DATASET=coco MODEL=mask GPUS=8",
            "--nproc-per-node 8 -m evaluate detection --weights w --data d --dataset coco "
            "--model mask",
        ),
        ("e3 SEEDS=1", "experiments e3 --data embedded --seeds 1"),
        ("experiments", "experiments all --data embedded --seeds 3"),
        ("lab ARGS=--no-browser", "--no-browser"),
    ],
)
def test_variables_reach_the_commands(arguments_of, command, expected):
    given = arguments_of(*command.split())
    assert expected in " ".join(given)
    # Jupyter refuses root, unless told otherwise
    assert ("--allow-root" in given) == (command.startswith("lab") and os.geteuid() == 0)


def test_a_signal_to_make_reaches_the_training(program):
    seen = program.with_name("seen")
    command = ["make", "pretrain", "IMAGES=x", "RUN=r", "ARGS=--wait", "READY=", f"PY={program}"]
    options = {"cwd": ROOT, "env": environment(SEEN=str(seen)), "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **options)
    while not seen.exists() or not seen.read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # to make alone, as `docker stop` does
    process.wait(10)
    assert seen.with_name("seen.saved").exists()


def test_setup_looks_at_the_list_of_packages_not_at_times(tmp_path):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv" / ".ready")
    os.utime(tmp_path / ".venv" / ".ready", (1, 1))
    assert make("setup", cwd=tmp_path).stdout == ""
    (tmp_path / "requirements.txt").write_text("another")
    assert "setting up .venv" in make("setup", "PYTHON=echo", cwd=tmp_path).stdout


def test_a_project_that_cannot_be_written(images, tmp_path):
    cache = tmp_path / "10:00 50%#é"
    options = [f"IMAGES={images}/train", f"CACHE={cache}", "ESTIMATOR=rbd", "WORKERS=1"]
    options += ["READY=", f"PY={sys.executable}", "ARGS="]
    done = read_only(ROOT, "make", "masks", *options, **BARE)
    assert done.returncode == 0 and (cache / "cache.json").exists(), done.stderr
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = read_only(tmp_path, "make", "setup")
    assert done.returncode == 2 and "cannot be written" in done.stdout


def test_clean_leaves_caches_and_runs_alone():
    removed = make("-n", "clean").stdout
    assert "runs/demo" in removed and not re.search(r"\bcaches\b|runs/?\s|shared", removed)
