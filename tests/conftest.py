"""Shared fixtures: where the team's real data lies, and a tiny image folder."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

# two test processes share the processors: threads that wait for each other cost minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")

# isort: split
import cv2
import numpy as np
import pytest

BARE = {"HOME": "/nonexistent", "LC_ALL": "C", "PYTHONUTF8": "0"}  # no home, an ASCII terminal


def scene(seed: int, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on noise: (side, side, 3) uint8 RGB and its true mask, (side, side) uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(rng.integers(40, 110, 3), 12, (side, side, 3))
    image = np.clip(noise, 0, 255).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    centre = rng.integers(side // 3, side - side // 3, 2).tolist()
    cv2.circle(mask, centre, int(rng.integers(side // 6, side // 4)), 255, -1)
    image[mask > 0] = rng.integers(150, 255, 3)
    return image, mask


def call(main: Callable[[], object], *words: object) -> None:
    """A program's main with this command line, in this process."""
    with mock.patch.object(sys, "argv", ["x", *map(str, words)]):
        main()


def mounted(command: list[str], *mounts: str, **more: str) -> subprocess.CompletedProcess:
    """Run a command after mounts that it alone sees; skip where that cannot be done."""
    options = {"capture_output": True, "text": True, "timeout": 600, "env": os.environ | more}
    unshare = ["unshare", "--mount", "bash", "-ec"]
    mounts = "\n".join(mounts)
    if not shutil.which("unshare") or subprocess.run([*unshare, mounts], **options).returncode:
        pytest.skip("this machine does not let us mount")
    return subprocess.run([*unshare, f'{mounts}\nexec "$@"', "bash", *command], **options)


def read_only(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    """Run a command in a folder that is mounted read-only for it alone."""
    here = shlex.quote(str(folder))
    mounts = f"mount --bind {here} {here}", f"mount -o remount,ro,bind {here}", f"cd {here}"
    return mounted(command, *mounts, **more)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 PNG scenes in two class folders, and their true masks in the same layout under masks/."""
    root = tmp_path_factory.mktemp("tiny")
    for i in range(80):
        image, mask = scene(i)
        for folder, picture in (("train", image[..., ::-1]), ("masks", mask)):
            path = root / folder / f"class{i % 2}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
    return root


@pytest.fixture(scope="session")
def truth_cache(images: Path) -> Path:
    """A cache of the true masks of `images`, 30 a shard."""
    from preprocess.pipeline import build
    from preprocess.recipe import Recipe

    folder = images / "cache-truth"
    recipe = Recipe("files", (), 32, str(images / "masks"))
    build(str(images / "train"), str(folder), recipe, shard_size=30)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's real data (DILO_SHARED, default ../shared); the test is skipped without it."""
    root = Path(os.environ.get("DILO_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no real data at {root} (set DILO_SHARED)")
    return root / "data"
