"""Beyond one process: parts, and a Dask cluster that loses a worker, make the same bytes."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.cache.reader import Cache
from tests.conftest import TREE, contents, execute, one_line, start, wait_for
from tests.preprocess.networks.test_onnx import OPTIONS, write
from tests.preprocess.runs import command, inline, masks, run


def test_parts_at_the_same_time_and_more_parts_than_shards(images, whole, tmp_path):
    folder = tmp_path / "cache"
    assert run(images / "train", folder, part=(8, 9)).lacking == 4  # the first has nothing to do
    first = command(images / "train", folder, "--workers", "0", "--part")
    jobs = [start([*first, f"{part}/9"]) for part in (9, 1, 2, 3)]
    assert [job.wait(120) for job in jobs] == [0] * 4
    for part in (4, 5, 6, 7, 8):
        assert run(images / "train", folder, part=(part, 9)).complete == (part > 3)
    assert contents(folder) == contents(whole)


def test_parts_bring_a_changed_input_up_to_date_together(root, cache, tmp_path):
    shutil.copy(root / "class0" / "000.png", root / "class0" / "000b.png")
    before = Cache(cache)
    first = run(root, cache, part=(2, 2))
    assert (first.computed, first.lacking) == (0, 3)
    assert len(Cache(cache)) == 80  # the old one until the last part
    for name in ("001.png", "003.png"):  # the other part sees other images
        (root / "class1" / name).unlink()
    assert not run(root, cache, part=(1, 2)).complete
    assert run(root, cache, part=(2, 2)).complete and len(Cache(cache)) == 79
    assert before.mask(70).any()
    run(root, tmp_path / "again")
    assert masks(cache) == masks(tmp_path / "again")


@contextmanager
def scheduler(folder):
    """Address of a scheduler on loopback; a function that starts `dask worker` as documented."""
    pytest.importorskip("distributed")
    dask = str(Path(sys.executable).with_name("dask"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "3"
    processes, said = [], folder / "dask.txt"
    with open(said, "w") as log:

        def begin(*command: str, cwd: Path = TREE) -> subprocess.Popen:
            processes.append(start(command, env=environment, stdout=log, stderr=log, cwd=cwd))
            return processes[-1]

        first = begin(dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        pattern = re.compile(r"Scheduler at:\s+(tcp://\S+)\n")
        wait_for(lambda: pattern.search(said.read_text()), first)
        address = pattern.search(said.read_text())[1]
        worker = [dask, "worker", address, "--nthreads", "1", "--nworkers", "1", "--no-dashboard"]
        try:
            yield address, lambda *before, **options: begin(*before, *worker, **options)
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_dask_with_a_worker_killed_in_the_middle_makes_the_same_bytes(images, many, tmp_path):
    network = "--estimator", "onnx", "--weights", write(tmp_path / "tiny.onnx"), *OPTIONS
    with scheduler(tmp_path) as (address, worker):
        workers = [worker(), worker()]
        process = start(command(many, tmp_path / "cache", "--dask", address))
        wait_for(lambda: list((tmp_path / "cache").glob("shard-*.h5")), process)
        in_time = process.poll() is None
        os.killpg(workers[0].pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
        for folder, more in (("onnx", ()), ("onnx-dask", ("--dask", address))):
            done = inline(images / "train", tmp_path / folder, *network, *more)
            assert done.returncode == 0, done.stderr
    assert process.returncode == 0, errors
    assert in_time and "960 of 960 masks computed" in output
    run(many, tmp_path / "alone")
    for here, there in (("alone", "cache"), ("onnx", "onnx-dask")):
        assert contents(tmp_path / here) == contents(tmp_path / there)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ((TREE / "data",), "cannot run this project's code (ModuleNotFoundError"),
        (("train",), "does not see"),
        ((), "the scheduler has no workers"),
    ],
)
def test_a_cluster_that_cannot_do_the_work_is_one_line_in_time(images, tmp_path, hidden, message):
    began = time.monotonic()
    with scheduler(tmp_path) as (address, worker):
        for path in hidden:
            script = f'mount -t tmpfs tmpfs "{images / path}" && exec "$@"'
            shell = ["unshare", "--mount", "sh", "-c", script, "sh"]
            if execute([*shell, "true"]).returncode:
                pytest.skip("no mount can be made here")
            worker(*shell, cwd=tmp_path)
        done = execute(command(images / "train", tmp_path / "cache", "--dask", address))
    assert message in one_line(done) and time.monotonic() - began < 40


def documented(heading: str, first: str, names: dict[str, str | Path]) -> str:
    """The code block of docs/masks.md that begins with a line, as it stands there but for names."""
    text = (TREE / "docs" / "masks.md").read_text().split(heading)[1]
    script = re.search(rf"```\w*\n({first}.*?)```", text, re.S)[1]
    for name, value in names.items():
        assert name in script
        script = script.replace(name, str(value))
    return script


@pytest.fixture
def tools(tmp_path) -> dict[str, str]:
    """Environment for the documented scripts: with an `srun`, and a `make` for this Python."""
    options = f"READY= PY={sys.executable} SIDE=32 ESTIMATOR=spectral SHARD=20"
    skip = 'while case "$1" in -c) shift;; --*) true;; *) false;; esac; do shift; done'
    make = f'exec {shutil.which("make")} "$@" {options}'
    for name, script in (("srun", f'{skip}\nexec "$@"'), ("make", make)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    outer = ("PYTHONPATH", "ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    inherited = {name: value for name, value in os.environ.items() if name not in outer}
    return inherited | {"PATH": path}


def test_the_documented_job_array(images, whole, tmp_path, tools):
    cache = tmp_path / "cache"
    names = {"/data/ILSVRC2012_img_train.tar": images / "train", "/project/dilo": TREE}
    names["/project/caches/imagenet-rbd"] = cache
    job = ["bash", "-c", documented("## A cluster", "#!/bin/bash", names)]
    for task in ("1", "2"):
        log = cache / f"log.part-{task}-of-2.jsonl"
        slurm = {"SLURM_CPUS_PER_TASK": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
        environment = tools | slurm | {"SLURM_ARRAY_TASK_ID": task}
        stopped = start(job, env=environment)
        wait_for(log.exists, stopped)
        os.killpg(stopped.pid, signal.SIGTERM)  # as --signal=TERM and scancel do
        assert "Traceback" not in stopped.communicate(timeout=60)[1]
        assert execute(job, env=environment).returncode == 0
    assert contents(cache) == contents(whole)


def test_the_documented_dask_cluster(images, whole, tmp_path, tools):
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        names = {"8786": free.getsockname()[1], "NODE": "127.0.0.1"}
    names |= {"--nworkers 1 ": "--nworkers 1 & ", "IMAGES=...": f"IMAGES={images / 'train'}"}
    names["CACHE=..."] = f"CACHE={tmp_path / 'cache'}"
    script = documented("With a Dask cluster", "dask scheduler", names)
    said = tmp_path / "said.txt"
    job = start(["bash", "-c", f"{{ {script}\n}} > {said} 2>&1"], env=tools)
    try:
        assert job.wait(90) == 0, said.read_text()
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert contents(tmp_path / "cache") == contents(whole)
