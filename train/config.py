"""One pretraining run's settings: a frozen dataclass, and what of it must not change when a run is continued."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import tyro

from data.cli import UsageError

# Fields that say where and how fast, not what: a run may be continued with other values of these.
RUNTIME = ("images", "list", "exclude", "masks", "out", "preset", "workers", "device", "threads", "compile",
           "log_every", "checkpoint_every", "keep", "knn", "knn_every", "knn_k", "knn_temperature", "knn_limit")


@dataclass(frozen=True)
class Config:
    """Pretrain with contrastive learning and DiLo copy-paste. Defaults are those of the chosen preset."""

    images: Annotated[str, tyro.conf.Positional]
    """Folder of training images, any depth, or a tar (ImageNet's tar of tars too); labels are not used."""
    out: str
    """Run folder; the same command continues the run in it."""
    masks: str = "none"
    """Mask cache made by `python -m preprocess`, or none: the baseline without DiLo."""
    list: str | None = None
    """Text file of relative paths, one a line: train on these images only."""
    exclude: str | None = None
    """Text file of relative paths, one a line: leave these out (images whose masks you have seen to be wrong, say)."""
    preset: str = "moco_v2"
    """Name of the settings to start from; an unknown one lists them."""

    network: Literal["resnet50", "resnet18", "resnet10"] = "resnet50"
    """Backbone; resnet10 is a narrow one for 32 px and CPUs."""
    stem: Literal["imagenet", "small", "small_stride2"] = "imagenet"
    """First layer: 7x7 stride 2 and max-pooling, or for small images 3x3 without pooling, at stride 1 or 2."""
    width: int = 64
    """Channels of the first stage (resnet10 only; 64 otherwise)."""

    dim: int = 128
    """Dimensions of the contrastive embedding."""
    queue: int = 65536
    """Negatives kept in the queue (K); need not divide by the batch."""
    momentum: float = 0.999
    """Momentum of the key encoder (m)."""
    temperature: float = 0.2
    """Softmax temperature (T)."""
    symmetric: bool = False
    """Use each view as query and as key (twice the time; MoCo's small-data recipe)."""
    batch_negatives: bool = False
    """Use the batch's other keys as negatives besides the queue's (not MoCo v2; helps runs of a few hundred steps)."""
    head_norm: bool = False
    """BatchNorm between the two layers of the projection head (not MoCo v2; helps runs of a few hundred steps)."""
    splits: int = 8
    """BatchNorm splits of a batch on one process, so that the statistics do not give the positive away; 1 = off."""

    size: int = 224
    """Side of a view, in pixels."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter."""
    jitter_p: float = 0.8
    """Probability of colour jitter."""
    grey_p: float = 0.2
    """Probability of greyscale."""
    blur_p: float = 0.5
    """Probability of Gaussian blur of the view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest sigma of that blur, in pixels of the view."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""

    paste_p: float = 0.3
    """DiLo: probability, per view and independently, that the foreground is pasted onto another background."""
    soften_p: float = 0.5
    """DiLo: probability that the mask of a pasted view is blurred first."""
    soften_sigma: float = 5.0
    """DiLo: sigma of that blur, in pixels of the source image (5 at ImageNet's native size; scale it to yours)."""
    background: Literal["grey"] = "grey"
    """DiLo: what the foreground is pasted onto: one grey level, uniform in 0..254."""
    control: Literal["none", "shuffled"] = "none"
    """Control experiment: shuffled pastes by another image's mask."""

    epochs: int = 200
    """Passes over the images."""
    batch: int = 256
    """Images a step; the last, smaller batch of an epoch is left out."""
    lr: float = 0.03
    """Largest learning rate; falls to 0 by a half cosine over the steps."""
    warmup: float = 0.0
    """Epochs over which the learning rate rises from 0 first (MoCo has none); a shorter run rises to its end."""
    weight_decay: float = 1e-4
    """Weight decay of SGD (its momentum is 0.9)."""
    seed: int = 0
    """Seed of weights, order, crops, colours and pastes."""

    workers: int = 8
    """Processes that decode and crop, a training process; 0 does it in that. Does not change the result."""
    threads: int = 0
    """CPU threads of the training process; 0 leaves torch's default."""
    device: str = "auto"
    """cuda, cpu, or auto (cuda where there is one)."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto computes in bfloat16 on a GPU and in float32 on a CPU; losses are float32 always."""
    compile: bool = False
    """Compile the networks with torch.compile: minutes at the start, faster steps; the last digits may differ."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; Ctrl-C, SIGTERM and SIGUSR1 save one too."""
    keep: int = 2
    """Newest checkpoints that are kept: should the last one be damaged, the run goes on from the one before."""

    knn: str | None = None
    """Folder with train/CLASS/... and val/CLASS/...: nearest-neighbour accuracy on it as the run goes, in the log."""
    knn_every: int = 5
    """Epochs between two such measurements; there is one at the end too."""
    knn_k: int = 20
    """Neighbours of that measurement."""
    knn_temperature: float = 0.07
    """Temperature of the neighbours' weights."""
    knn_limit: int = 50000
    """At most so many images of each of the two folders, evenly spaced."""

    def check(self) -> None:
        """UsageError where values do not fit together."""
        if self.batch % self.splits:
            raise UsageError(f"--batch {self.batch} does not divide into --splits {self.splits} BatchNorm splits")
        if self.batch // self.splits < 2:
            raise UsageError(f"--batch {self.batch} over --splits {self.splits} leaves one image a split; BatchNorm "
                             "needs two")
        for name in ("jitter_p", "grey_p", "blur_p", "flip_p", "paste_p", "soften_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: a probability is in 0..1")
        for name in ("epochs", "batch", "queue", "size", "dim", "splits", "log_every", "checkpoint_every",
                     "keep", "knn_every", "knn_k", "knn_limit"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.warmup < 0:
            raise UsageError(f"--warmup {self.warmup}: must be at least 0 epochs")
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UsageError(f"--crop {self.crop[0]} {self.crop[1]}: needs 0 < smallest <= largest <= 1")
        if self.control != "none" and self.masks == "none":
            raise UsageError(f"--control {self.control} needs --masks CACHE: it pastes by another image's mask")


def identity(config: Config, paths: np.ndarray, masks: str) -> dict:
    """What makes two runs the same run: JSON-able.

    Args:
        paths: (N,) bytes, the run's images.  masks: the cache's identity hash, or "none".
    """
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in RUNTIME}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    digest = hashlib.blake2b(b"\n".join(paths.tolist()), digest_size=8).hexdigest()
    return fields | {"images": f"{len(paths)} images, list {digest}", "masks": masks}
