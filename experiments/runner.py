"""Data, masks, trainings and measurements of rows: what is there already is kept, so that a stopped
table continues."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from data.io import write_text
from data.sources.images import list_images
from experiments.jobs import call
from experiments.measure import measure
from experiments.settings import Data, Row, flags, textures

RESULT = "result.json"
ORIGIN = Path(__file__).parents[1]


def commit() -> str:
    """The commit that the code is at, with + where files were changed since; "unknown" outside a
    checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ORIGIN), *arguments], capture_output=True, text=True
        ).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain", "-uno") else ""
    )


def machine() -> str:
    """The GPU's name, or else the processor's and how many there are."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        names = []
    return f"{len(names) or '?'} x {names[0] if names else platform.machine()}"


def prepare(data: Data, out: Path) -> Path:
    """The folder of images that is trained on and measured with: made, or copied small, once."""
    if data.name == "embedded":
        images = out / "images"
        train, probe, test = map(str, data.images)
        call("data", "synthetic", str(images), "--train", train, "--probe", probe, "--test", test)
        return images
    if not data.stored:
        return Path(data.source)
    images = out / f"images-{data.stored}"
    if not (images / "done").exists():
        for path in tqdm(
            list_images(data.source).tolist(), desc=f"copies of {data.stored} px", unit="image"
        ):
            name = path.decode()
            image = cv2.imread(str(Path(data.source, name)))
            (images / name).parent.mkdir(parents=True, exist_ok=True)
            small = cv2.resize(image, (data.stored, data.stored), interpolation=cv2.INTER_AREA)
            if not cv2.imwrite(str(images / name), small, [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise OSError(f"{images / name}: could not be written; is the disk full?")
        write_text(images / "done", "")
    return images


def masks_of(row: Row, data: Data, out: Path, images: Path) -> str:
    """The row's mask cache, made where it is missing, or "none"."""
    if row.masks == "none":
        return "none"
    cache = out / f"masks-{row.masks}-{row.side}"
    source = Path(data.source or images, "train")  # masks come from the images as they are
    options = (
        ("--estimator", "files", "--maps", str(images / "masks" / "train"))
        if row.masks == "truth"
        else ("--estimator", row.masks)
    )
    call("preprocess", str(source), str(cache), *options, "--side", str(row.side), "--workers", "1")
    return str(cache)


def impossible(row: Row) -> str:
    """Why a row cannot be run here: "" where it can."""
    if dict(row.options).get("textures") and not Path(textures()).is_dir():
        return f"{textures()}: no textures; set DILO_SHARED to the folder whose data/dtd holds them"
    return ""


def run_row(
    row: Row, data: Data, seed: int, out: Path, images: Path, workers: int = 0
) -> dict | None:
    """Train and measure one row with one seed, or read what was measured before.

    Args:
        workers: processes that decode for it.

    Returns:
        "measured" (see experiments.measure), "untrained" likewise (of rows without DiLo only),
        "seed", "command", "commit", "date", "machine"; also written to the run's folder as
        result.json. None where it cannot be run here.
    """
    folder = out / row.folder(data) / f"seed{seed}"
    if (folder / RESULT).exists():
        found = json.loads((folder / RESULT).read_text())
        if row.masks == "none" and "untrained" not in found:  # without it the gate cannot be asked
            found["untrained"] = measure(folder, data, images, workers, untrained=True)
            write_text(folder / RESULT, json.dumps(found, indent=1) + "\n")
        return found
    why = impossible(row)
    if why:
        print(f"not run: {why}", flush=True)
        return None
    masks = masks_of(row, data, out, images)
    command = call(
        "train",
        str(images / "train"),
        "--masks",
        masks,
        "--preset",
        data.preset,
        "--epochs",
        str(data.epochs),
        "--seed",
        str(seed),
        *flags(data.common),
        *flags(row.options),
        "--threads",
        "1",
        "--workers",
        str(workers),
        "--out",
        str(folder),
    )
    found = {
        "seed": seed,
        "command": command,
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "measured": measure(folder, data, images, workers),
    }
    if row.masks == "none":
        found["untrained"] = measure(folder, data, images, workers, untrained=True)
    write_text(folder / RESULT, json.dumps(found, indent=1) + "\n")
    return found
