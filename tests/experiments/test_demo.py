"""The demo end to end, tiny; its table; and what is said of a command that failed."""

import json
import os
import sys

import pytest
from tqdm import tqdm

from evaluate.backgrounds.variants import SPLITS
from experiments import jobs
from experiments.demo import ROWS, table
from tests.conftest import TREE, execute, refused, start, wait_for

CHILD = """
import pathlib, time
from data.stopping import Stopping
with Stopping() as stop:
    pathlib.Path("began").touch()
    while not stop.received:
        time.sleep(0.05)
time.sleep(0.5)
pathlib.Path("saved").touch()
"""
PARENT = """
import pathlib, sys, time
from tqdm import tqdm
from data.stopping import ending
from experiments.jobs import STOPPED, call, side_by_side
with ending(STOPPED), tqdm(total=1) as bar:
    ends = time.monotonic() + float(sys.argv[1])
    if sys.argv[2] == "call":
        call("child", ends=ends)
    assert not side_by_side({pathlib.Path("log"): ("child",)}, bar, ends=ends)
"""


def results_of(seed: int) -> dict:
    rows = {}
    for i, row in enumerate(ROWS):
        accuracy = {column: 10.0 * i + j + seed for j, column in enumerate((*SPLITS, "gap"))}
        rows[row] = {"biased": accuracy, "unbiased": {k: v + 50 for k, v in accuracy.items()}}
    return {"rows": rows}


def test_tables_have_every_row_and_number():
    text = table({0: results_of(0)}, "biased", "pretraining")
    assert "| shuffled masks | 40.0 | 42.0 | 45.0 |" in text and "| untrained | 0.0 |" in text
    results = {seed: results_of(seed) for seed in (3, 4)}
    text = table(results, "biased", "x") + table(results, "unbiased", "y")
    assert "| x | seeds | original | mixed_rand | gap | mixed_rand, seed 3 | 4 |" in text
    row = "| shuffled masks | 2 | {}3.5 ± 0.7 | {}5.5 ± 0.7 | {}8.5 ± 0.7 | {}5.0 | {}6.0 |"
    assert row.format(*"44444") in text and row.format(*"99999") in text


def test_the_error_of_a_failed_command_is_repeated(tmp_path):
    log = tmp_path / "log"
    with open(log, "w") as orphan, tqdm(total=1) as bar:  # of an earlier try, it writes on
        command = ("data", "info", str(tmp_path / "nothing"))
        said = refused(jobs.side_by_side, {log: command}, bar)
        assert "nothing" in said and "(exit code 2; the whole" in said
        print("baseline: 14%", file=orphan, flush=True)
    assert "14%" not in log.read_text()


@pytest.mark.parametrize("how", ["call", "side_by_side"])
def test_a_signal_and_the_end_of_the_time_stop_what_runs(tmp_path, how):
    (tmp_path / "child.py").write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": f"{TREE}:{tmp_path}"}
    for ends in ("inf", "3"):
        parent = [sys.executable, "-c", PARENT, ends, how]
        process = start(parent, cwd=tmp_path, env=environment)
        wait_for((tmp_path / "began").exists, process)
        if ends == "inf":
            process.terminate()
        assert process.wait(60) == (how == "call" and ends != "inf")  # a TimeoutError
        (tmp_path / "saved").unlink()  # the child was stopped, and waited for
        (tmp_path / "began").unlink()


@pytest.mark.slow
def test_demo_runs_end_to_end_and_again(tmp_path):
    out = tmp_path / "demo"
    sizes = "--epochs 1 --train-images 300 --probe-images 60 --test-images 60 --out"
    command = [sys.executable, "-m", "experiments.demo", *sizes.split(), str(out)]
    done = execute(command)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["rows"]) == set(ROWS) and "| no DiLo |" in done.stdout
    assert (out / "demo.png").stat().st_size > 50_000
    before = {p: p.stat().st_mtime_ns for p in out.rglob("backbone.pt")}
    assert execute(command).returncode == 0 and {p: p.stat().st_mtime_ns for p in before} == before
