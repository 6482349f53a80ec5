"""Commands that a program runs: what it says of one that failed."""

import subprocess
import sys

import pytest

from data.cli import UsageError
from experiments import jobs


def test_a_failed_commands_last_line_is_told_once(tmp_path):
    log = tmp_path / "log"
    log.write_text("a first line\nerror: x.jpg: broken\n")
    failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    with pytest.raises(UsageError, match=r"^x\.jpg: broken \(exit code 2; the whole output is in "):
        jobs.wait(failed, log)
    jobs.wait(subprocess.Popen([sys.executable, "-c", ""]), log)
