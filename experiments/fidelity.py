"""What storing a mask at S x S loses, on ECSSD's even numbers: the map squashed, stored in a byte,
and brought back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.io import write_text
from data.resize import resize
from data.sources.images import decode, list_images, read_bytes
from evaluate.masks.agreement import agreement
from preprocess.estimators import load


def round_trip(saliency: np.ndarray, side: int) -> np.ndarray:
    """An (H, W) float32 map in [0, 1], stored as a cache stores it, (side, side) uint8, and brought
    back to (H, W)."""
    stored = np.rint(resize(saliency, side, side) * 255).astype(np.uint8)
    return resize(stored.astype(np.float32) / 255, saliency.shape[1], saliency.shape[0])


def fidelity(sides: Iterable[int], out: Path, limit: int = 250) -> dict[int, dict[str, float]]:
    """Side -> {"lost": mean absolute difference (0..1) of RBD's maps after the round trip, "IoU":
    of true masks after it, at half}; kept in OUT/fidelity.json. Empty where ECSSD is not there.

    Args:
        limit: at most so many of the images whose number is even.
    """
    file = out / "fidelity.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    missing = [side for side in sides if str(side) not in kept]
    source = Path(os.environ.get("DILO_SHARED", "../shared"), "data", "ecssd")
    if missing and (source / "images").is_dir():
        kept |= {str(side): found for side, found in _measure(source, missing, limit).items()}
        write_text(file, json.dumps(kept) + "\n")
    return {side: kept[str(side)] for side in sides if str(side) in kept}


def _measure(source: Path, sides: list[int], limit: int) -> dict[int, dict[str, float]]:
    even = [
        name
        for name in list_images(str(source / "images")).tolist()
        if int(Path(name.decode()).stem) % 2 == 0
    ]
    if not even:
        raise UsageError(f"{source}/images: no image has an even number")
    estimator, lost = load("rbd"), {side: [] for side in sides}
    pairs: dict[int, list] = {side: [] for side in sides}
    for name in tqdm(even[:: -(-len(even) // limit)], desc="round trip of masks", unit="image"):
        saliency = estimator(decode(read_bytes(str(source / "images"), name)))
        mask = name.decode().rsplit(".", 1)[0] + ".png"
        truth = decode(read_bytes(str(source / "masks"), mask.encode()))[..., 0]
        for side in sides:
            lost[side].append(np.abs(round_trip(saliency, side) - saliency).mean())
            back = round_trip((truth >= 128).astype(np.float32), side)
            pairs[side].append((np.uint8(255) * (back >= 0.5), np.uint8(255) * (truth >= 128)))
    return {
        side: {"lost": float(np.mean(lost[side])), "IoU": agreement(pairs[side])["iou"]}
        for side in sides
    }
