"""Report, saliency and diagnosis where a disk takes nothing, another process writes, or names are
not UTF-8: one line and exit code 2, or the right result."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.cli import UsageError
from data.io import lock
from evaluate import report
from evaluate.common import command
from evaluate.diagnose import command as diagnose
from evaluate.masks import saliency
from train.network import backbone

ROOT = Path(__file__).parents[2]
MODULES = {"report": report, "saliency": saliency, "diagnose": diagnose}


@pytest.fixture(scope="module")
def inputs(images, tmp_path_factory) -> dict[str, list[str]]:
    """Options of each command, without the output's."""
    root = tmp_path_factory.mktemp("inputs")
    for name in ("train", "val"):
        os.symlink(images / "train", root / name)
    os.symlink(images / "masks", root / "masks")
    torch.save(backbone("resnet10", "small_stride2", 4).state_dict(), root / "x.pth")
    knn = {"evaluation": "knn", "accuracy": {"20": 1.5}}
    (root / "knn.json").write_text(json.dumps(knn))
    places = ["--images", str(root / "train"), "--truth", str(root / "masks")]
    runs = ["--runs", str(root / "x.pth"), "--data", str(root), "--masks", str(root / "masks")]
    saliency_options = "--estimator centre --limit 2 --examples 1 --workers 0 --json"
    return {
        "report": [str(root / "knn.json"), "--out"],
        "saliency": [*places, *saliency_options.split()],
        "diagnose": [*runs, "--limit", "4", "--examples", "1", "--json"],
    }


def isolated(script: str, *argv: str) -> subprocess.CompletedProcess:
    """Run a shell script where what it mounts is gone afterwards."""
    shell = ["unshare", "--mount", "sh", "-ec", script, "sh"]
    return subprocess.run([*shell, *argv], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("report", "size=8k", "No space left on device"),
        ("saliency", "size=8k", "No space left on device"),
        ("report", "ro", "Read-only file system"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(inputs, tmp_path, name, options, said):
    if not shutil.which("unshare") or isolated(f"mount -t tmpfs none {tmp_path}").returncode:
        pytest.skip("mounting needs unshare and its rights")
    fill = "dd if=/dev/zero of=$0/fill bs=1k 2>/dev/null || true"
    script = f'mount -t tmpfs -o {options} none {tmp_path}; {fill}; exec "$@"'
    argv = [sys.executable, "-m", "evaluate", name, *inputs[name], str(tmp_path / "out.x")]
    done = isolated(script.replace("$0", str(tmp_path)), *argv)
    error = done.stderr.split("\r")[-1].strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert error.startswith(f"error: {tmp_path}/") and said in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_an_output_that_another_process_writes(inputs, tmp_path, name):
    busy = pytest.raises(UsageError, match=r"out\.x: another (process|evaluation) is writing it")
    with lock(tmp_path / ".out.x.lock"), busy:
        command(name, MODULES[name], [*inputs[name], str(tmp_path / "out.x")])


def test_names_that_are_not_utf8_and_system_files(images, tmp_path):
    root = os.path.join(os.fsencode(tmp_path), b"_caf\xe9 $x$")
    picture = (images / "train" / "class0" / "000.png").read_bytes()
    mask = (images / "masks" / "class0" / "000.png").read_bytes()
    for folder, content in ((b"images", picture), (b"truth", mask), (b"maps", mask)):
        for name in (b"\xe9 1.png", b"._\xe9 1.png", b".ipynb_checkpoints/\xe9 1.png"):
            file = os.path.join(root, folder, name)
            os.makedirs(os.path.dirname(file), exist_ok=True)
            Path(os.fsdecode(file)).write_bytes(content if b"." not in name[:1] else b"system's")
    out = os.path.join(root, b"out.json")
    places = [os.path.join(root, name) for name in (b"images", b"truth", b"maps")]
    argv = [b"--images", places[0], b"--truth", places[1], b"--maps", places[2], b"--json", out]
    command = [sys.executable, "-m", "evaluate", "saliency", *argv]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path(os.fsdecode(out)).read_text())
    assert result["paths"] == ["\udce9 1.png"]
    (entry,) = result["estimators"].values()
    assert entry["mae"] == 0
