"""Features of a frozen backbone: load a run or weights, go through a labelled folder, give
arrays."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.cli import UsageError
from data.io import atomic
from data.sources import labelled
from data.sources.images import ImageError
from data.sources.labelled import centre_crop
from evaluate.common import Common
from evaluate.weights import load_run_weights, load_weights
from train.distributed import choose_device
from train.photometric import MEAN, STD
from train.workers import identity_collate, start_worker

LARGE = (
    2 << 30
)  # bytes of float32 features in memory; more go to a file, as float16 (ImageNet's 1.28 M x 2048: 5.2 GB)
FLUSH = 16  # batches between two copies from the device: it never waits for the host in between


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


class Labelled(labelled.Labelled, Dataset):
    """data.sources.labelled.Labelled for a loader of whole batches; an image that cannot be decoded
    is one clear line."""

    def read(self, i: int) -> np.ndarray:
        """Image i, (H, W, 3) uint8. UsageError, with its name, where it cannot be decoded."""
        try:
            return super().read(i)
        except ImageError as error:
            name = os.path.join(self.root, os.fsdecode(self.paths[i]))
            raise BadImage(f"{name}: {error}; remove or repair that image") from None

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        """(B, s, s, 3) uint8: a batch in one piece, which a worker hands over without another
        copy."""
        batch = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows):
            batch[place] = self[row]
        return torch.from_numpy(batch)

    def digest(self) -> str:
        """16 hex digits of the list of images and their sizes."""
        stat = np.ascontiguousarray(self.images.stat()[:, 0])
        return hashlib.blake2b(
            b"\n".join(self.paths.tolist()) + stat.tobytes(), digest_size=8
        ).hexdigest()


class BadImage(UsageError):
    """An image that cannot be decoded; takes one argument, so that a worker can hand it to the main
    process."""


def batches(
    images: Dataset, workers: int, device: torch.device, batch: int | None = None, order=None
) -> DataLoader:
    """A loader of whole batches, decoded ahead by `workers` processes.

    Args:
        batch: images in order, so many at a time; or
        order: a sampler of lists of items, which images.__getitems__ takes.
    """
    chosen = {"batch_size": batch} if order is None else {"batch_sampler": order}
    return DataLoader(
        images,
        **chosen,
        num_workers=workers,
        collate_fn=identity_collate,
        worker_init_fn=start_worker,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )


def to_input(crops: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(B, s, s, 3) uint8 to (B, 3, s, s) float32 on `device`, normalised, channels last; in place,
    so in one buffer."""
    scaled = crops.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return scaled.sub_(mean).div_(std)


def forward(encoder: Encoder, crops: torch.Tensor) -> torch.Tensor:
    """(B, D) float32 features on the encoder's device; computed in bf16 on a GPU."""
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.device.type == "cuda"):
        return encoder.model(to_input(crops, encoder.device)).float()


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
    features = extract_from(encoder, images, batch, workers, file)
    return features, images.labels, images.classes


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
    features, done, waiting = None, 0, []
    with (
        torch.inference_mode(),
        tqdm(
            total=len(images),
            desc=f"features {os.path.basename(images.root)}",
            unit="img",
            leave=False,
        ) as bar,
    ):
        for crops in batches(images, workers, encoder.device, batch):
            waiting.append(forward(encoder, crops))
            bar.update(len(crops))
            if len(waiting) < FLUSH and done + sum(map(len, waiting)) < len(images):
                continue
            part = torch.cat(waiting).cpu().numpy()
            waiting.clear()
            if features is None:
                features = _allocate((len(images), part.shape[1]), file)
            rows = slice(done, done + len(part))
            features[rows] = part
            if features.dtype == np.float16 and not np.isfinite(features[rows]).all():
                raise UsageError(
                    f"{images.root}: features up to {np.abs(part).max():.3g} do not fit float16"
                )
            done += len(part)
    return features


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
