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
    copy, binaries = tmp_path / "copy", tmp_path / "bin"
    ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "caches", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    files = FILE.findall(sections()[name])
    assert len(files) >= 2
    for file, source in files:
        assert len(source.splitlines()) <= 40, f"{file} is longer than the page says"
        assert not (copy / file).exists()
        (copy / file).write_text(source)
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def shell(script: str) -> str:
        command = ["bash", "-ec", script]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for script in SHELL.findall(sections()[name]):
        said = shell(script)
        assert re.search(r"[1-9]\d* passed", said) and "failed" not in said
    shell(f"python -m ruff check --no-cache {' '.join(file for file, _ in files)}")
