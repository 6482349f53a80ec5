"""Features of a frozen backbone: load a run or weights, go through a labelled folder, give
arrays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.cli import UsageError
from data.io import atomic
from data.sources.labelled import centre_crop
from evaluate.common import Common
from evaluate.weights import load_run_weights, load_weights
from train import features
from train.distributed import choose_device
from train.features import BadImage, Labelled, batches, to_input

__all__ = [
    "BadImage",
    "Encoder",
    "Labelled",
    "batches",
    "encoder_of",
    "extract",
    "extract_from",
    "forward",
    "load_encoder",
    "project",
    "to_input",
]

LARGE = (
    2 << 30
)  # bytes of float32 features in memory; more go to a file, as float16 (ImageNet's 1.28 M x 2048: 5.2 GB)


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone in eval mode.

    Attributes:
        size: side of the images it is given, in pixels.
        digest: of its weights.
        head: its projection head, on the same device, or None.
        classifier: its classifier of ImageNet's classes, or None.
    """

    model: nn.Module
    size: int
    device: torch.device
    digest: str = ""
    head: nn.Module | None = None
    classifier: nn.Linear | None = None

    @property
    def crop(self) -> str:
        return f"centre, {self.size} px"


def load_encoder(
    run: str | None = None,
    device: str = "auto",
    untrained: bool = False,
    weights: str | None = None,
    stem: str | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Encoder:
    """The backbone of a run folder, or of anybody's weights.

    Args:
        untrained: the same network with the weights it began with: what a number is worth. It has
            no head.
        stem, size: see evaluate.common.Common.
        seed: untrained: 0 gives the first weights of the run, others other ones.

    Raises:
        UsageError: no run, or an unfinished one, or weights that do not fit its network.
    """
    found = load_run_weights(run) if run is not None else load_weights(weights or "", stem)
    chosen = choose_device(device)
    model = (
        found.build(untrained, seed)
        .requires_grad_(False)
        .eval()
        .to(chosen, memory_format=torch.channels_last)
    )
    head, classifier = (None, None) if untrained else (found.head, found.classifier)
    which = f"-untrained{seed or ''}" if untrained else ""
    return Encoder(
        model,
        size or found.size,
        chosen,
        found.digest() + which,
        head.to(chosen) if head else None,
        classifier.to(chosen) if classifier else None,
    )


def encoder_of(args: Common, seed: int = 0) -> Encoder:
    """The network that an evaluation's command line names. UsageError as load_encoder, or for its
    options."""
    args.check()
    return load_encoder(
        args.run, args.device, args.untrained, args.weights, args.stem, args.size, seed
    )


def forward(encoder: Encoder, crops: torch.Tensor) -> torch.Tensor:
    """(B, D) float32 features on the encoder's device; computed in bf16 on a GPU."""
    return features.forward(encoder.model, crops, encoder.device)


def extract(
    encoder: Encoder,
    root: str,
    batch: int = 256,
    workers: int = 0,
    classes: list[str] | None = None,
    crop: Callable[[np.ndarray, int], np.ndarray] = centre_crop,
    keep: str | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features of every image of a labelled folder.

    Args:
        classes: class names that labels are places of; the folder's own where None.
        keep: folder where features are kept for the next evaluation of the same network and images.

    Returns:
        (N, D) float32 features (the backbone's pooled output, not normalised), (N,) int64 labels,
        class names. More than LARGE bytes, or kept ones, are a read-only float16 np.memmap instead.

    Raises:
        UsageError: no such folder, no images or classes, or an image that cannot be decoded.
    """
    images = Labelled(root, encoder.size, classes, crop)
    file = None
    if keep is not None:
        name = os.path.basename(root.rstrip("/"))
        file = Path(
            keep, f"{name}-{crop.__name__}{encoder.size}-{encoder.digest}-{images.digest()}.npy"
        )
        if file.exists():
            return np.load(file, mmap_mode="r"), images.labels, images.classes
        file.parent.mkdir(parents=True, exist_ok=True)
    whole = extract_from(encoder, images, batch, workers, file)
    return whole, images.labels, images.classes


def extract_from(
    encoder: Encoder, images: Labelled, batch: int = 256, workers: int = 0, file: Path | None = None
) -> np.ndarray:
    """The (N, D) features of `images` as extract gives them, to `file` (.npy, atomically) where one
    is named."""
    if file is None:
        return _fill(encoder, images, batch, workers, None)
    with atomic(file) as temporary:
        _fill(encoder, images, batch, workers, temporary).flush()
    return np.load(file, mmap_mode="r")


def _fill(
    encoder: Encoder, images: Labelled, batch: int, workers: int, file: Path | None
) -> np.ndarray:
    """The features of all images, in memory or in `file`."""
    out, done = None, 0
    with tqdm(
        total=len(images), desc=f"features {os.path.basename(images.root)}", unit="img", leave=False
    ) as bar:
        loader = batches(images, workers, encoder.device, batch)
        for part in features.features(encoder.model, loader, encoder.device):
            if out is None:
                out = _allocate((len(images), part.shape[1]), file)
            rows = slice(done, done + len(part))
            out[rows] = part
            if out.dtype == np.float16 and not np.isfinite(out[rows]).all():
                raise UsageError(
                    f"{images.root}: features up to {np.abs(part).max():.3g} do not fit float16"
                )
            done += len(part)
            bar.update(len(part))
    return out


def project(head: nn.Module, features: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, D) backbone features through a head: (N, d) float32, a chunk at a time."""
    with torch.inference_mode():
        return np.concatenate(
            [
                head(torch.from_numpy(np.asarray(features[i : i + 8192], np.float32)).to(device))
                .float()
                .cpu()
                .numpy()
                for i in range(0, len(features), 8192)
            ]
        )


def _allocate(shape: tuple[int, int], file: Path | None) -> np.ndarray:
    if file is not None:
        return np.lib.format.open_memmap(file, "w+", np.float16, shape)
    if 4 * shape[0] * shape[1] <= LARGE:
        return np.empty(shape, np.float32)
    # without a name, so that it is gone with the process; not in /tmp, which may itself be memory
    return np.memmap(tempfile.TemporaryFile(dir="."), np.float16, "w+", shape=shape)
