"""Features of a frozen backbone: load a run or weights, go through a labelled folder, give
arrays."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.cli import UsageError
from data.io import atomic
from data.sources.labelled import centre_crop
from evaluate.common import Common
from train import features
from train.distributed import choose_device
from train.features import Labelled, batches
from train.weights import load_source

# bytes of float32 features in memory; more go to a file, as float16 (ImageNet's: 5.2 GB)
LARGE = 2 << 30


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
    """The backbone of a run folder, or of third-party weights.

    Args:
        untrained: the same network with the weights it began with, a reference value. It has no
            head.
        stem, size: see evaluate.common.Common.
        seed: untrained: 0 gives the first weights of the run, others other ones.

    Raises:
        UsageError: no run, or an unfinished one, or weights that do not fit its network.
    """
    source = load_source(run, weights, stem)
    place = choose_device(device)
    model = source.build(untrained, seed).requires_grad_(False).eval()
    model = model.to(place, memory_format=torch.channels_last)
    if untrained:
        digest = f"{source.digest()}-untrained{seed or ''}"
        return Encoder(model, size or source.size, place, digest)
    head, classifier = (layer and layer.to(place) for layer in (source.head, source.classifier))
    return Encoder(model, size or source.size, place, source.digest(), head, classifier)


def encoder_of(arguments: Common, seed: int = 0) -> Encoder:
    """The network that an evaluation's command line names. UsageError as load_encoder, or for its
    options."""
    arguments.check()
    return load_encoder(
        arguments.run,
        arguments.device,
        arguments.untrained,
        arguments.weights,
        arguments.stem,
        arguments.size,
        seed,
    )


@dataclass(frozen=True)
class TrainVal:
    """Features of DATA/train and of DATA/val.

    Attributes:
        train, val: (N, D) and (M, D) floats, as extract gives them.
        labels, truth: (N,) and (M,) int64, places in `classes`.
    """

    train: np.ndarray
    labels: np.ndarray
    val: np.ndarray
    truth: np.ndarray
    classes: list[str]

    def sizes(self) -> dict[str, int]:
        """What a protocol says of them."""
        counts = {"train_images": len(self.train), "test_images": len(self.val)}
        return {**counts, "classes": len(self.classes)}

    def per_class(self, predicted: np.ndarray) -> dict[str, float]:
        """Accuracy in percent of the (M,) predicted classes, by the true class's name."""
        return accuracy_by_class(predicted == self.truth, self.truth, self.classes)


def train_and_val(arguments: Common, encoder: Encoder) -> TrainVal:
    """Features of DATA/train and DATA/val, kept in the folder --features where there is one."""
    options = {"workers": arguments.workers, "keep": arguments.features}
    folder = os.path.join(arguments.data, "train")
    train, labels, classes = extract(encoder, folder, **options)
    folder = os.path.join(arguments.data, "val")
    val, truth, _ = extract(encoder, folder, classes=classes, **options)
    return TrainVal(train, labels, val, truth, classes)


def accuracy_by_class(
    right: np.ndarray, labels: np.ndarray, classes: list[str]
) -> dict[str, float]:
    """Percent of (N,) `right` by class; classes without an image are left out."""
    return {
        name: 100 * float(right[labels == i].mean())
        for i, name in enumerate(classes)
        if (labels == i).any()
    }


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
            if not np.isfinite(out[rows]).all():
                fits = "are not finite" if out.dtype == np.float32 else "do not fit float16"
                raise UsageError(f"{images.root}: features up to {np.abs(part).max():.3g} {fits}")
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
        out = np.lib.format.open_memmap(file, "w+", np.float16, shape)
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        return out
    if 4 * shape[0] * shape[1] <= LARGE:
        return np.empty(shape, np.float32)
    with _unnamed_file() as opened:
        # a full disk is an error here, and would be a SIGBUS later
        os.posix_fallocate(opened.fileno(), 0, 2 * shape[0] * shape[1])
        return np.memmap(opened, np.float16, "r+", shape=shape)


def _unnamed_file() -> BinaryIO:
    """A file that is gone with the process: here, for /tmp may itself be memory, or there where
    this folder cannot be written."""
    try:
        return tempfile.TemporaryFile(dir=".")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return tempfile.TemporaryFile()
