"""Features of a frozen backbone: load a run or weights, go through a labelled folder, give
arrays."""

import os
import tempfile
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data.cli import UsageError
from data.io import atomic, is_own
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
        workers: processes that decode its images; 0: this one; None: see train.workers.fit_workers.
    """

    model: nn.Module
    size: int
    device: torch.device
    digest: str = ""
    head: nn.Module | None = None
    classifier: nn.Linear | None = None
    workers: int | None = 0

    @property
    def crop(self) -> str:
        return f"centre, {self.size} px"

    @property
    def dimensions(self) -> int:
        """Of the features."""
        with torch.inference_mode():
            return self.model(torch.zeros(1, 3, 64, 64, device=self.device)).shape[1]


def load_encoder(arguments: Common, seed: int = 0) -> Encoder:
    """The network that an evaluation's command line names: of a run folder, or third-party weights.

    Args:
        arguments: where `untrained`, the same network with the weights it began with, a reference
            value. It has no head.
        seed: untrained: 0 gives the first weights of the run, others other ones.

    Raises:
        UsageError: no run, or an unfinished one, or weights that do not fit its network.
    """
    source = load_source(arguments.run, arguments.weights, arguments.stem)
    device, digest = choose_device(arguments.device), source.digest()
    layers = [source.head, source.classifier]
    if arguments.untrained:
        digest, layers = f"{digest}-untrained{seed or ''}", [None, None]
    model = source.build(arguments.untrained, seed).requires_grad_(False).eval()
    model = model.to(device, memory_format=torch.channels_last)
    layers = [layer and layer.to(device) for layer in layers]
    size = arguments.size or source.size
    return Encoder(model, size, device, digest, *layers, arguments.workers)


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


def labelled_pair(arguments: Common, size: int) -> tuple[Labelled, Labelled]:
    """The images of DATA/train and of DATA/val, which has the former's classes."""
    train = Labelled(os.path.join(arguments.data, "train"), size)
    return train, Labelled(os.path.join(arguments.data, "val"), size, train.classes)


def train_and_val(arguments: Common, encoder: Encoder) -> TrainVal:
    """Features of DATA/train and DATA/val, kept in the folder --features where there is one."""
    train, val = labelled_pair(arguments, encoder.size)
    bank, queries = (extract(encoder, part, keep=arguments.features) for part in (train, val))
    return TrainVal(bank, train.labels, queries, val.labels, train.classes)


def sizes(train: Sized, val: Sized, classes: list[str]) -> dict[str, int]:
    """What a protocol says of the images, or of their features."""
    return {"train_images": len(train), "test_images": len(val), "classes": len(classes)}


def extract(
    encoder: Encoder, images: Labelled, batch: int = 256, keep: str | None = None
) -> np.ndarray:
    """Features of every image: the backbone's pooled output, not normalised.

    Args:
        keep: folder where features are kept for the next evaluation of the same network and images.

    Returns:
        (N, D) float32. More than LARGE bytes, or kept ones, are a float16 np.memmap instead.

    Raises:
        UsageError: an image that cannot be decoded, features that are not finite, or a kept file
            of other contents.
    """
    if keep is None:
        return _fill(encoder, images, batch)
    name = f"{os.path.basename(images.root.rstrip('/'))}-{images.crop.__name__}{encoder.size}"
    file = Path(keep, f"{name}-{encoder.digest}-{images.digest(times=True)}.npy")
    if not os.path.lexists(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as temporary:
            _fill(encoder, images, batch, temporary).flush()
    return _read_kept(file, (len(images), encoder.dimensions))


def _read_kept(file: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        kept = np.lib.format.open_memmap(file, mode="r") if is_own(file) else None
    except OSError:
        raise
    except Exception:  # whatever numpy finds in what it did not write
        kept = None
    if kept is None or kept.dtype != np.float16 or kept.shape != shape:
        raise UsageError(f"{file}: not the features of {shape[0]} images, {shape[1]}-d; delete it")
    return kept


def _fill(encoder: Encoder, images: Labelled, batch: int, file: Path | None = None) -> np.ndarray:
    """The features of all images, in memory or in `file`."""
    out, done = _allocate((len(images), encoder.dimensions), file), 0
    loader = batches(images, encoder.workers, encoder.device, batch)
    bar = tqdm(loader, f"features {os.path.basename(images.root)}", leave=False, unit="batch")
    for part in features.features(encoder.model, bar, encoder.device):
        stored = out[done : done + len(part)]
        stored[:] = part
        if not np.isfinite(stored).all():
            fits = "are not finite" if out.dtype == np.float32 else "do not fit float16"
            raise UsageError(f"{images.root}: features up to {np.abs(part).max():.3g} {fits}")
        done += len(part)
    return out


def _allocate(shape: tuple[int, int], file: Path | None) -> np.ndarray:
    if file is None and 4 * shape[0] * shape[1] <= LARGE:
        return np.empty(shape, np.float32)
    with open(file, "w+b") if file else _unnamed_file() as opened:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, header)
        opened.flush()
        start = opened.tell()
        # a full disk is an error here, and would be a SIGBUS later
        os.posix_fallocate(opened.fileno(), start, 2 * shape[0] * shape[1])
        return np.memmap(opened, np.float16, "r+", start, shape)


def _unnamed_file() -> BinaryIO:
    """A file that is gone with the process: here, for /tmp may itself be memory, or there where
    this folder cannot be written."""
    try:
        return tempfile.TemporaryFile(dir=".")
    except OSError:
        return tempfile.TemporaryFile()


def blocks(values: np.ndarray, rows: int) -> Iterator[torch.Tensor]:
    """(N, D) features, in memory or mapped, as float32 on the CPU, `rows` of them at a time."""
    for first in range(0, len(values), rows):
        yield torch.from_numpy(np.asarray(values[first : first + rows], np.float32))


def project(head: nn.Module, values: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, D) backbone features through a head: (N, d) float32, a block at a time."""
    with torch.inference_mode():
        parts = [head(x.to(device)).float().cpu() for x in blocks(values, 8192)]
    return torch.cat(parts).numpy()


def hits(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, min(5, C)) bool: whether each of the highest of (N, C) scores is the right class's; never
    where scores are not finite."""
    best = torch.from_numpy(scores).topk(min(5, scores.shape[1])).indices.numpy()
    return (best == labels[:, None]) & np.isfinite(scores).all(1, keepdims=True)


def accuracies(right: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict:
    """Percent of `hits`: {"top-1", "top-5" (where there are more than five classes), "per_class":
    {name: top-1}}."""
    first = right[:, 0]
    accuracy = {"top-1": 100 * float(first.mean())}
    if len(classes) > 5:
        accuracy["top-5"] = 100 * float(right.any(1).mean())
    return {**accuracy, "per_class": accuracy_by_class(first, labels, classes)}


def accuracy_by_class(
    right: np.ndarray, labels: np.ndarray, classes: list[str]
) -> dict[str, float]:
    """Percent of (N,) `right` by class; classes without an image are left out."""
    return {
        name: 100 * float(right[labels == i].mean())
        for i, name in enumerate(classes)
        if (labels == i).any()
    }
