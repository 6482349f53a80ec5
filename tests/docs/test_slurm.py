"""The Slurm scripts for training of the documentation, word for word but for names, numbers and the
size of the training; `srun` is a process group, every process of which gets the signal."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRUN = f"""#!{sys.executable}
import os, sys
os.setsid()
with open(os.environ["GROUP"], "w") as file:
    file.write(str(os.getpid()))
assert sys.argv[1:3] == ["-c", os.environ["SLURM_CPUS_PER_TASK"]]
os.execvp(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "source", "name"),
    [
        ("pretraining.md", "/data/imagenet/train", "runs/rbd"),
        ("imagenet.md", "/data/ILSVRC2012_img_train.tar", "runs/moco_v2-rbd"),
    ],
)
def test_the_script_saves_before_its_time_is_over(
    images, truth_cache, tmp_path, page, source, name
):
    text = (ROOT / "docs" / page).read_text()
    script = re.search(r"```\w*\n(#!/bin/bash\n#SBATCH[^`]*train\.launch.*?)```", text, re.S)[1]
    assert "--signal=TERM@" in script
    run = tmp_path / "run"
    small = "--preset moco_v2_demo --epochs 1000 --batch 16 --queue 64 --log-every 1"
    for ours, theirs in (
        ("cd /project/dilo", f"cd {ROOT}"),
        ("source .venv/bin/activate", f"export PATH={Path(sys.executable).parent}:$PATH"),
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
    with open(tmp_path / "job.out", "w") as out:
        job = subprocess.Popen(
            ["bash", "-c", script], stdout=out, stderr=out, env=os.environ | more
        )
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while job.poll() is None and not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(int((tmp_path / "group").read_text()), signal.SIGTERM)
    code, said = job.wait(60), (tmp_path / "job.out").read_text()
    assert code == 0 and "Traceback" not in said, said
    assert list((run / "checkpoints").glob("step-*.pt"))
