"""Pages followed word for word: docs/extend.md, docs/minimal.md, the Slurm scripts for training."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.conftest import TREE as ROOT
from tests.conftest import execute
from tests.train.runs import wait_for_steps

MINIMAL = (ROOT / "docs" / "minimal.md").read_text()
FILE = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", re.M | re.S)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
PARTS = re.split(r"^## (.*)\n", (ROOT / "docs" / "extend.md").read_text(), flags=re.M)[1:]
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
# `srun` is a process group, every process of which gets the signal
SRUN = f"""#!{sys.executable}
import os, sys
os.setsid()
with open(os.environ["GROUP"], "w") as file:
    file.write(str(os.getpid()))
assert sys.argv[1:3] == ["-c", os.environ["SLURM_CPUS_PER_TASK"]]
os.execvp(sys.argv[3], sys.argv[3:])
"""
# a page, the images that its script is given, and the run
SCRIPTS = [("pretraining.md", "/data/imagenet/train", "runs/rbd")]
SCRIPTS += [("imagenet.md", "/data/ILSVRC2012_img_train.tar", "runs/moco_v2-rbd")]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_works_as_written(name, tmp_path):
    copy, binaries = tmp_path / "copy", tmp_path / "bin"
    ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "caches", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    files = FILE.findall(SECTIONS[name])
    assert len(files) >= 2
    for file, source in files:
        assert len(source.splitlines()) <= 40, f"{file} is longer than the page says"
        assert not (copy / file).exists()
        (copy / file).write_text(source)
    binaries.mkdir()
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    linted = f"python -m ruff check --no-cache {' '.join(file for file, _ in files)}"
    for script in [*SHELL.findall(SECTIONS[name]), linted]:
        done = execute(["bash", "-ec", script], cwd=copy, env=environment)
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
        assert script == linted or re.search(r"[1-9]\d* passed", done.stdout)


def test_the_page_runs_and_learns(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", MINIMAL, re.M | re.S)
    program = "\n".join(blocks)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 135
    command = re.search(r"^```sh\npython (-m data synthetic .*)\n```", MINIMAL, re.M)[1]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    for arguments in (command.split(), ["-c", program]):
        done = execute([sys.executable, *arguments], cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    before, after = re.search(r"([\d.]+)% before, ([\d.]+)% after", done.stdout).groups()
    assert losses[-1] < max(losses) - 0.1
    assert float(after) > float(before) + 3


@pytest.mark.slow
@pytest.mark.parametrize(("page", "source", "name"), SCRIPTS)
def test_the_script_saves_in_time(images, truth_cache, tmp_path, page, source, name):
    text = (ROOT / "docs" / page).read_text()
    script = re.search(r"```\w*\n(#!/bin/bash\n#SBATCH[^`]*train\.launch.*?)```", text, re.S)[1]
    assert "--signal=TERM@" in script
    run = tmp_path / "run"
    small = "--preset moco_v2_demo --epochs 1000 --batch 16 --queue 64 --log-every 1"
    for ours, theirs in (
        ("cd /project/dilo", f"cd {ROOT}"),
        ("source .venv/bin/activate", f"export PATH={os.path.dirname(sys.executable)}:$PATH"),
        ("--nproc-per-node 8", "--nproc-per-node 2"),
        (source, str(images / "train")),
        ("caches/imagenet-rbd", str(truth_cache)),
        (f"--out {name}", f"--out {run} {small}"),
        ("--workers 12", "--workers 1"),
    ):
        assert script.count(ours) == 1, ours
        script = script.replace(ours, theirs)
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    more = {"GROUP": str(tmp_path / "group"), "SLURM_CPUS_PER_TASK": "2"}
    more["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    options = {"stderr": subprocess.PIPE, "text": True, "env": os.environ | more}
    job = subprocess.Popen(["bash", "-c", script], **options)
    wait_for_steps(run, 1)
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGTERM)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 0 and "Traceback" not in errors, errors
    assert list((run / "checkpoints").glob("step-*.pt"))
