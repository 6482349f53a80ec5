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
    env = environment(**more)
    return subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, env=env)


@pytest.fixture
def arguments_of(tmp_path):
    """(make's arguments) -> what Python was given."""
    program = tmp_path / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    def call(*arguments: str) -> list[str]:
        seen = tmp_path / "seen"
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
    ("arguments", "missing"),
    [
        (["masks"], "masks needs IMAGES=..."),
        (["masks", "IMAGES=x"], "masks needs CACHE=..."),
        (["pretrain", "IMAGES=x"], "pretrain needs RUN=..."),
        (["detection", "WEIGHTS=x"], "detection needs DATA=..."),
        (["export", "OUT=x"], "export needs RUN=..."),
        (["knn", "RUN=x"], "knn needs DATA=..."),
    ],
)
def test_a_missing_variable_is_one_line_and_exit_code_2(arguments, missing):
    done = make(*arguments)
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
        ("knn RUN DATA", "evaluate knn --unless-current --run RUN --data DATA"),
        ("detection RUN DATA", "evaluate detection --run RUN --data DATA"),
        ("export WEIGHTS OUT", "evaluate export|--weights WEIGHTS --out OUT"),
    ],
)
def test_names_of_any_characters_reach_the_commands_whole(arguments_of, command, expected):
    target, *variables = command.split()
    names = {f"{NAME}-{v}": v for v in variables}
    given = arguments_of(target, *(f"{v}={name}" for name, v in names.items()))
    shown = " ".join(names.get(word, word) for word in given)
    assert all(part in shown for part in expected.split("|")), given


def test_variables_reach_the_commands(arguments_of):
    masks = ("masks", "IMAGES=x", "CACHE=c")
    given = " ".join(arguments_of(*masks, "ESTIMATOR=spectral", "SIDE=64", "WORKERS=16"))
    assert "x c --estimator spectral --refine none --side 64" in given and "--workers 16" in given
    assert "--device" not in given and "--weights" not in given
    network = ("WEIGHTS=n.pth", "DEVICE=cuda", "BATCH=64", "PRECISION=bf16", "PART=1/4")
    given = " ".join(arguments_of(*masks, *network))
    assert "--part 1/4 --weights n.pth --device cuda --batch 64 --precision bf16" in given
    given = " ".join(arguments_of("pretrain", "IMAGES=x", "RUN=r", "ARGS=--epochs 3"))
    assert "--masks none" in given and given.endswith("--epochs 3")
    voc = ("detection", "WEIGHTS=w", "DATA=d", "DATASET=coco", "MODEL=mask", "GPUS=8")
    given = " ".join(arguments_of(*voc))
    assert "--nproc-per-node 8 -m evaluate detection --weights w --data d" in given
    assert "--dataset coco --model mask" in given
    assert arguments_of("e3", "SEEDS=1")[1:3] == ["experiments", "e3"]
    assert arguments_of("experiments")[1:3] == ["experiments", "all"]
    given = arguments_of("lab", "ARGS=--no-browser")  # Jupyter refuses root, unless told otherwise
    assert "--no-browser" in given and ("--allow-root" in given) == (os.geteuid() == 0)
    given = " ".join(arguments_of("bench-scale", "DILO_SHARED=/else where"))
    assert "--sample /else where/data/imagenet_sample" in given


def test_a_signal_to_make_reaches_the_training(arguments_of, tmp_path):
    seen, program = tmp_path / "seen", tmp_path / "python"
    command = ["make", "pretrain", "IMAGES=x", "RUN=r", "ARGS=--wait", "READY=", f"PY={program}"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(SEEN=str(seen)), stdout=subprocess.DEVNULL
    )
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


READ_ONLY = (
    'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
)


def test_a_project_that_cannot_be_written(images, tmp_path):
    def read_only(folder: Path, *command: str) -> subprocess.CompletedProcess:
        mounted = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(folder), *command]
        env = environment(HOME="/nonexistent")
        return subprocess.run(mounted, capture_output=True, text=True, env=env)

    if shutil.which("unshare") is None or read_only(tmp_path, "true").returncode:
        pytest.skip("this machine does not let us mount")
    cache = tmp_path / "10:00 50%#é"
    options = [f"IMAGES={images}/train", f"CACHE={cache}", "ESTIMATOR=rbd", "WORKERS=1"]
    done = read_only(ROOT, "make", "masks", *options, "READY=", f"PY={sys.executable}")
    assert done.returncode == 0 and (cache / "cache.json").exists(), done.stderr
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = read_only(tmp_path, "make", "setup")
    assert done.returncode == 2 and "cannot be written" in done.stdout


def test_clean_leaves_caches_and_runs_alone():
    removed = make("-n", "clean").stdout
    assert "runs/demo" in removed and not re.search(r"\bcaches\b|runs/?\s|shared", removed)
