"""The Makefile: help, missing variables, names of files, signals, what clean leaves alone."""

import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import TREE as ROOT
from tests.conftest import execute, read_only, start, wait_for

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
# in place of Python, it writes its arguments to $SEEN; with --wait it goes on until a signal
PROGRAM = r"""#!/bin/bash
trap 'touch "$SEEN.saved"; exit' TERM
printf '%s\0' "$@" > "$SEEN"
while [[ "$*" == *--wait* ]]; do sleep 0.02; done
"""
# the tests themselves run under `make test ARGS=...`, and a make below a make prints more
INHERITED = ("MAKE", "MFLAGS", "ARGS")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
NAME = "runs/a 2026-11-27T10:00 50%#1 é 'b' \"c\" $d `e` (f), g\\"


def make(*arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
    return execute(["make", *arguments], cwd=cwd, env=ENVIRONMENT | more)


@pytest.fixture
def program(tmp_path) -> Path:
    (tmp_path / "python").write_text(PROGRAM)
    (tmp_path / "python").chmod(0o755)
    return tmp_path / "python"


def test_make_alone_prints_every_command_with_one_line():
    text = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([a-z0-9-]+):", text, re.M)
    printed = [line.split(maxsplit=2) for line in make().stdout.splitlines()]
    assert [name for _, name, _ in printed] == rules and "pretrain" in rules
    phony = re.search(r"^\.PHONY: (.*)", make("-pn", "help").stdout, re.M)[1].split()
    assert set(rules) <= set(phony)  # a file of that name would keep any other from running


def test_a_missing_variable_is_one_line_and_exit_code_2():
    done = make("detection", "WEIGHTS=x")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "detection needs DATA=..." in done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("masks IMAGES CACHE LIST WEIGHTS", "IMAGES CACHE|--list LIST|--weights WEIGHTS"),
        ("masks IMAGES CACHE ESTIMATOR=rbd", "--estimator rbd --refine none --side 128"),
        ("masks IMAGES CACHE DEVICE=cuda BATCH=64 PART=1/4", "--part 1/4|--device cuda --batch 64"),
        ("pack IMAGES OUT LIST", "data pack IMAGES OUT|--list LIST"),
        ("pretrain IMAGES CACHE RUN", "train IMAGES --masks CACHE --preset moco_v2 --out RUN"),
        ("pretrain IMAGES RUN WORKERS=3 ARGS=--dry", "--out RUN --workers 3 --dry"),
        ("pretrain IMAGES RUN LIST", "train IMAGES --masks none|--out RUN|--list LIST"),
        ("knn RUN DATA", "evaluate knn --unless-current --run RUN --data DATA"),
        ("detection RUN DATA GPUS=8", "-node 8 -m evaluate detection --run RUN --data DATA"),
        ("detection WEIGHTS DATA DATASET=coco MODEL=mask", "--dataset coco --model mask"),
        ("export WEIGHTS OUT", "evaluate export|--weights WEIGHTS --out OUT"),
        ("diagnose RUNS DATA", "evaluate diagnose --runs RUNS --data DATA"),
        ("report RUNS OUT", "evaluate report RUNS --out OUT"),
        ("bench-gpu DILO_SHARED", "--images DILO_SHARED/data/imagenet_sample"),
        ("e3 SEEDS=1", "experiments e3 --data embedded --seeds 1"),
        ("lab", "jupyterlab notebooks" + " --allow-root" * (os.geteuid() == 0)),
    ],
)
def test_values_and_names_of_any_characters_reach_the_commands(program, command, expected):
    target, *variables = command.split()
    names = {v: f"{NAME}-{v}" for v in variables if "=" not in v}
    # in a list of names a blank of a name follows a backslash
    as_typed = {v: n.replace(" ", "\\ ") if v == "RUNS" else n for v, n in names.items()}
    values = [v if "=" in v else f"{v}={as_typed[v]}" for v in variables]
    seen = program.with_name("seen")
    done = make("-s", target, *values, "READY=", f"PY={program}", SEEN=str(seen))
    assert done.returncode == 0, done.stderr
    given = " ".join(seen.read_text().split("\0"))
    for variable, name in names.items():
        given = given.replace(name, variable)
    assert all(part in given for part in expected.split("|")), given
    assert ("--workers" in given) == ("WORKERS" in command)


def test_a_signal_to_make_reaches_the_training(program):
    seen = program.with_name("seen")
    command = ["make", "pretrain", "IMAGES=x", "RUN=r", "ARGS=--wait", "READY=", f"PY={program}"]
    process = start(command, env=ENVIRONMENT | {"SEEN": str(seen)})
    wait_for(lambda: seen.exists() and seen.read_text(), process)
    process.send_signal(signal.SIGTERM)  # to make alone, as `docker stop` does
    process.wait(10)
    assert seen.with_name("seen.saved").exists()


def test_setup_looks_at_the_list_of_packages_not_at_times(tmp_path, program):
    (tmp_path / ".venv").mkdir()
    ready = tmp_path / ".venv" / ".ready"
    shutil.copy(ROOT / "Makefile", tmp_path)
    for place in (tmp_path, ready):
        shutil.copy(ROOT / "requirements.txt", place)
    os.utime(ready, (1, 1))
    assert make("setup", cwd=tmp_path).stdout == ""
    (tmp_path / "requirements.txt").write_text("another")
    assert "setting up .venv" in make("setup", "PYTHON=echo", cwd=tmp_path).stdout
    program.write_text('echo "$@" >> log; mkdir -p .venv/bin; cp python .venv/bin; sleep 0.3')
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda _: make("setup", "PYTHON=./python", cwd=tmp_path), range(2))
        assert [process.returncode for process in done] == [0, 0]
    assert (tmp_path / "log").read_text().count("-m pip") == 1  # one sets up, the other waits
    (tmp_path / ".venv").rename(tmp_path / "gone")
    done = read_only(tmp_path, "make", "setup")
    assert done.returncode == 2 and "cannot be written" in done.stdout


def test_clean_leaves_caches_and_runs_alone():
    removed = make("-n", "clean").stdout
    assert "runs/demo" in removed and not re.search(r"\bcaches\b|runs/?\s|shared", removed)
