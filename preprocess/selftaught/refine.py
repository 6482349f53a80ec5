"""The network's own labels: its maps at two scales, mirrored and not, cut, and joined to what was held before."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from torch import nn

from preprocess.selftaught import cut
from preprocess.selftaught.network import normalised
from preprocess.selftaught.parts import Samples, trust

MOMENTUM = 0.5  # of the history: how much of it a round keeps
BATCH = 32
BLOCK = 64  # images a task of the cutting


def refine(network: nn.Module, samples: Samples, sides: tuple[int, ...], workers: int,
           rows: np.ndarray) -> dict[str, np.ndarray]:
    """New label and trust of (n,) rows, a pure function of the network and the samples.

    The label is the moving average of the history with the mean of the network's map and its cut; the trust is how well
    the map at the largest of `sides`, the mirrored one at the smallest, the cut and the history agree.
    """
    images, cues, old, _ = samples.take(rows)
    pixels = stacked(images, cues)
    maps = predict(network, pixels, max(sides))
    other = predict(network, pixels, min(sides), flip=True)
    mean = np.rint((maps.astype(np.float32) + other) / 2).astype(np.uint8)
    blocks = [slice(i, i + BLOCK) for i in range(0, len(rows), BLOCK)]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        cuts = np.concatenate(Parallel(max(1, workers))(delayed(_cuts)(images[b], mean[b]) for b in blocks))
    label = MOMENTUM * old.astype(np.float32) + (1 - MOMENTUM) * (mean.astype(np.float32) + cuts) / 2
    label = np.rint(label).astype(np.uint8)
    views = np.stack([maps, other, cuts, old], 1)
    return {"label": label, "trust": np.array([trust(cut.agreement(v, one), one)
                                               for v, one in zip(views, label, strict=True)], np.float32)}


def _cuts(images: np.ndarray, priors: np.ndarray) -> np.ndarray:
    cv2.setNumThreads(0)
    return np.stack([cut.cut(image, prior, iterations=1) for image, prior in zip(images, priors, strict=True)])


def stacked(images: np.ndarray, cues: np.ndarray) -> np.ndarray:
    """(n, S, S, 3) pictures and (n, 4, S, S) cues as the network takes them: (n, 7, S, S) uint8."""
    return np.concatenate([images.transpose(0, 3, 1, 2), cues], 1)


@torch.inference_mode()
def predict(network: nn.Module, pixels: np.ndarray, side: int | None = None, flip: bool = False,
            blind: bool = False) -> np.ndarray:
    """(n, S, S) uint8 maps of (n, 7, S, S) uint8 pixels; seen at `side`, mirrored, or without the cues."""
    found = np.empty((len(pixels), *pixels.shape[2:]), np.uint8)
    network.eval()
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(pixels[start:start + BATCH]))
        x = normalised(batch, torch.zeros(len(batch), 4) if blind else None)
        x = x.flip(3) if flip else x
        if side is not None and side != x.shape[2]:
            x = nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        p = torch.sigmoid(network(x.contiguous(memory_format=torch.channels_last)))
        p = nn.functional.interpolate(p[:, None], size=pixels.shape[2:], mode="bilinear")[:, 0]
        found[start:start + BATCH] = (p.flip(2) if flip else p).mul(255).round().to(torch.uint8).numpy()
    return found
