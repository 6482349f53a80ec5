"""The cues: maps of four single estimators with published constants, which labels and network start from.

Not `fusion`, nor `preprocess.cuts`: their constants were chosen with true masks. RBD's ten SLIC iterations are its
authors' (`rbd` alone takes six, for speed, which ECSSD allowed); MB+ works at the network's own size.
"""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from data.cache import Cache
from preprocess import regions as graph
from preprocess.blocks import Recipe
from preprocess.build import build
from preprocess.estimators import mbd, mc, mr, rbd, resize_map
from preprocess.pixels import shrink

RECIPES = {
    "rbd": (("iterations", 10),),
    "mr": (),
    "mc": (),
    "mbd": (),
}


def cues(image: np.ndarray, side: int) -> np.ndarray:
    """(4, side, side) uint8 maps, in RECIPES' order, of an (H, W, 3) uint8 RGB image: what `prepare` caches.

    RBD, MR and MC share one region graph, so that the four take little more than one and a half.
    """
    parts = graph.regions(image)
    maps = [parts.paint(method.solve(parts)) for method in (rbd, mr, mc)] + [mbd.saliency(image)]
    cv2.setNumThreads(0)
    return np.stack([np.rint(np.clip(resize_map(m, side, side), 0, 1) * 255).astype(np.uint8) for m in maps])


def squashed(image: np.ndarray, side: int) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image at (side, side, 3), as the network sees it; smaller ones are enlarged."""
    return np.ascontiguousarray(shrink(image, side, side))


def prepare(folders: list[str], work: Path, side: int, workers: int) -> list[tuple[str, list[Cache]]]:
    """Make, or find finished, the mask caches of every folder: (folder, the four caches in RECIPES' order).

    Raises:
        UsageError: a folder without images, or a cache of other parameters in its place.
    """
    made = []
    for number, folder in enumerate(folders):
        name = re.sub(r"[^A-Za-z0-9_-]", "_", Path(folder).resolve().name)
        caches = []
        for estimator, parameters in RECIPES.items():
            place = work / f"{number}-{name}-{estimator}"
            build(folder, str(place), Recipe(estimator, parameters, side), workers=workers)
            caches.append(Cache(place))
        made.append((folder, caches))
    return made
