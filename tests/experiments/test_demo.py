"""The demo end to end, tiny; its table; and what is said of a command that failed."""

import json
import subprocess
import sys

import pytest

from data.cli import UsageError
from evaluate.backgrounds.variants import SPLITS
from experiments import jobs
from experiments.demo import ROWS, table


def test_table_has_every_row_and_number():
    rows = {}
    for i, row in enumerate(ROWS):
        accuracy = {column: 10.0 * i + j for j, column in enumerate((*SPLITS, "gap"))}
        rows[row] = {"biased": accuracy, "unbiased": accuracy}
    text = table({"rows": rows})
    assert "| shuffled masks | 40.0 | 42.0 | 45.0 |" in text and "| untrained | 0.0 |" in text


def test_the_last_line_of_a_failed_command_is_repeated(tmp_path):
    command = ("data", "info", str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match=r"nothing.*\(exit code 2; the whole output is in "):
        jobs.side_by_side({tmp_path / "log": command}, lambda finished: None)


@pytest.mark.slow
def test_demo_runs_end_to_end_and_again(tmp_path):
    out = tmp_path / "demo"
    sizes = ["--train-images", "300", "--probe-images", "60", "--test-images", "60"]
    command = [sys.executable, "-m", "experiments.demo", "--out", str(out), "--epochs", "1", *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["rows"]) == set(ROWS) and "| no DiLo |" in done.stdout
    assert (out / "demo.png").stat().st_size > 50_000
    before = {p: p.stat().st_mtime_ns for p in out.rglob("backbone.pt")}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and {p: p.stat().st_mtime_ns for p in before} == before
