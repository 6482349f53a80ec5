"""The Makefile as people meet it: help, missing variables, and what clean leaves alone."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def make(*arguments: str) -> subprocess.CompletedProcess:
    # the tests themselves run under `make test ARGS=...`, and a make below a make prints more
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "ARGS"))
    }
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=clean)


def test_make_alone_prints_every_command_with_one_line():
    rules = {
        line.split(":")[0]: line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if re.match(r"[a-z0-9-]+:", line)
    }
    printed = make().stdout.splitlines()
    assert [line.split()[1] for line in printed] == list(rules) and "pretrain" in rules
    assert all(len(line.split(maxsplit=2)) == 3 for line in printed)
    phony = re.search(r"^\.PHONY: (.*)", make("-pn", "help").stdout, re.M)[1].split()
    assert sorted(phony) == sorted(rules)  # a file of that name would keep any other from running


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


def test_variables_reach_the_commands():
    printed = make(
        "-n",
        "masks",
        "IMAGES=/data/in 1k",
        "CACHE=c",
        "ESTIMATOR=spectral",
        "WORKERS=16",
        "SIDE=64",
    ).stdout
    assert '-m preprocess "/data/in 1k" "c" --estimator spectral --refine none --side 64' in printed
    assert "--workers 16" in printed and "--device" not in printed and "--weights" not in printed
    printed = make(
        "-n",
        "masks",
        "IMAGES=x",
        "CACHE=c",
        "ESTIMATOR=u2net",
        "WEIGHTS=u2 net.pth",
        "DEVICE=cuda",
        "BATCH=64",
        "PRECISION=bf16",
    ).stdout.replace("\\\n", " ")
    assert re.search(
        r'--weights "u2 net.pth"\s+--device cuda\s+--batch 64\s+--precision bf16', printed
    )
    printed = make(
        "-n", "pretrain", "IMAGES=x", "CACHE=c", "RUN=r", "PRESET=moco_v2_small", "ARGS=--epochs 3"
    ).stdout
    assert '--masks "c" --preset moco_v2_small --out "r"' in printed and "--epochs 3" in printed
    printed = make(
        "-n", "detection", "WEIGHTS=w.pth", "DATA=d", "DATASET=coco", "MODEL=mask", "GPUS=8"
    ).stdout
    assert '--nproc-per-node 8 -m evaluate detection --weights "w.pth"' in printed
    assert '--data "d" --dataset coco --model mask' in printed
    assert (
        '--to timm --run "r" --out "o"' in make("-n", "export", "RUN=r", "OUT=o", "TO=timm").stdout
    )


def test_clean_leaves_caches_and_runs_alone():
    removed = make("-n", "clean").stdout
    assert "runs/demo" in removed and not re.search(r"\bcaches\b|runs/?\s|shared", removed)


def test_lab_starts_for_root_too_and_takes_its_options():
    # Jupyter refuses root, which every container is, unless told otherwise
    printed = make("-n", "lab", "ARGS=--no-browser").stdout
    assert "-m jupyterlab notebooks" in printed and "--no-browser" in printed
    assert ("--allow-root" in printed) == (os.geteuid() == 0)


def test_an_evaluation_is_made_again_for_other_data_and_for_arguments_alone(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "backbone.pt").touch()
    (run / "linear.json").write_text('{\n  "data": "/data/in1k",\n  "accuracy": 1\n}\n')

    def evaluates(*more: str) -> bool:
        return "-m evaluate linear" in make("-n", "linear", f"RUN={run}", *more).stdout

    assert not evaluates("DATA=/data/in1k")
    assert evaluates("DATA=/data/in10") and evaluates("DATA=/data/in1k", "ARGS=--sweep")
    os.utime(run / "linear.json", (1, 1))
    assert evaluates("DATA=/data/in1k")


def test_benchmarks_look_for_real_data_where_dilo_shared_says():
    for target in (
        "bench",
        "bench-saliency",
        "bench-evaluate",
        "bench-datapath",
        "bench-scale",
        "bench-train",
    ):
        assert " /elsewhere/data" in make("-n", target, "DILO_SHARED=/elsewhere").stdout, target
