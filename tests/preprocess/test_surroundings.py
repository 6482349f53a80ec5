"""Surroundings that are not a developer's machine: containers, file systems without locks, quotas."""

import os
import shutil
import subprocess

import pytest

from tests.preprocess.runs import TREE, command


def test_a_project_that_cannot_be_written_and_no_home(images, tmp_path):
    script = f'mount --bind "{TREE}" "{TREE}" && mount -o remount,ro,bind "{TREE}" && exec "$@"'
    shell = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*shell, "true"], capture_output=True).returncode
    ):
        pytest.skip("no mount can be made here")
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc", "TMPDIR": str(tmp_path)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TREE)}
    module = [
        command("", "")[0],
        "-c",
        "import train.copy_paste, preprocess.vision.barrier as b; print(b)",
    ]
    done = subprocess.run([*shell, *module], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("dilo-kernels-*"))
