"""docs/extend.md followed word for word, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text()
FILE = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", re.M | re.S)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", PAGE, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", list(sections()))
def test_the_example_works_as_written(name, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".git", ".venv*", "runs", "caches", ".*_cache"),
    )
    files = FILE.findall(sections()[name])
    assert len(files) >= 2
    for file, source in files:
        assert len(source.splitlines()) <= 40, f"{file} is longer than the page says"
        assert not (copy / file).exists()
        (copy / file).write_text(source)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for script in SHELL.findall(sections()[name]):
        done = subprocess.run(
            ["bash", "-ec", script], cwd=copy, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"[1-9]\d* passed", done.stdout) and "failed" not in done.stdout
    linted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", *[f for f, _ in files]],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert linted.returncode == 0, linted.stdout
