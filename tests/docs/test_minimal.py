"""docs/minimal.md as one program: it runs, learns, and stays short."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "minimal.md").read_text()


def test_the_page_runs_and_learns(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    program = "\n".join(blocks)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 135
    command = re.search(r"^```sh\npython (-m data synthetic .*)\n```", PAGE, re.M)[1]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    for arguments in (command.split(), ["-c", program]):
        done = subprocess.run([sys.executable, *arguments], **options)
        assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    before, after = re.search(r"([\d.]+)% before, ([\d.]+)% after", done.stdout).groups()
    assert losses[-1] < max(losses) - 0.1
    assert float(after) > float(before) + 3
