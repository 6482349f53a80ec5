"""One pretraining run's settings: a frozen dataclass, and what of it must not change when a run is
continued."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import tyro

from data.cli import UsageError

# Fields that say where and how fast, not what: a run may be continued with other values of these.
RUNTIME = (
    "images",
    "list",
    "exclude",
    "masks",
    "out",
    "preset",
    "workers",
    "device",
    "threads",
    "compile",
    "textures",
    "log_every",
    "checkpoint_every",
    "keep",
    "knn",
    "knn_every",
    "knn_k",
    "knn_temperature",
    "knn_limit",
)


@dataclass(frozen=True)
class Config:
    """Pretrain with contrastive learning and DiLo copy-paste. Defaults are those of the chosen
    preset."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of training images, any depth, or a tar (ImageNet's tar of tars too); labels are not
    used."""
    out: str
    """Run folder; the same command continues the run in it."""
    masks: str = "none"
    """Mask cache made by `python -m preprocess`, or none: the baseline without DiLo."""
    list: str | None = None
    """Text file of relative paths, one a line: train on these images only."""
    exclude: str | None = None
    """Text file of relative paths, one a line: leave these out (images whose masks you have seen to
    be wrong, say)."""
    preset: str = "moco_v2"
    """Name of the settings to start from; an unknown one lists them."""

    network: Literal["resnet50", "resnet18", "resnet10"] = "resnet50"
    """Backbone; resnet10 is a narrow one for 32 px and CPUs."""
    stem: Literal["imagenet", "small", "small_stride2"] = "imagenet"
    """First layer: 7x7 stride 2 and max-pooling, or for small images 3x3 without pooling, at stride
    1 or 2."""
    width: int = 64
    """Channels of the first stage (resnet10 only; 64 otherwise)."""

    method: Literal["moco", "instdisc", "simclr", "byol"] = "moco"
    """Pretraining method; start from a preset of its own, the other settings are not adapted to
    it."""
    dim: int = 128
    """Dimensions of the contrastive embedding."""
    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: two layers, or one (MoCo v1, InstDisc)."""
    hidden: int = 0
    """SimCLR, BYOL: width of the heads' hidden layers; 0 takes the backbone's number of
    features."""
    head_norm: bool = False
    """BatchNorm in the head (SimCLR and BYOL have it; MoCo v2 has not, but it helps runs of a few
    hundred steps)."""
    temperature: float = 0.2
    """Softmax temperature (T); BYOL has none."""
    momentum: float = 0.999
    """MoCo: momentum of the key encoder (m). BYOL: of the target at first (tau), rising to 1 by
    half a cosine."""
    queue: int = 65536
    """MoCo: negatives kept in the queue (K); need not divide by the batch."""
    symmetric: bool = False
    """MoCo: use each view as query and as key (twice the time; MoCo's small-data recipe)."""
    batch_negatives: bool = False
    """MoCo: use the batch's other keys as negatives besides the queue's (not v2; helps runs of a
    few hundred steps)."""
    negatives: int = 4096
    """InstDisc: noise samples drawn from the memory bank for each image (m of NCE)."""
    bank_momentum: float = 0.5
    """InstDisc: share of a bank entry that stays when its image is seen again."""
    splits: int = 8
    """BatchNorm splits of a batch on one process, so that the statistics do not give the positive
    away; 1 = off."""

    size: int = 224
    """Side of a view, in pixels."""
    crop: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    crop_keeps: float = 0.0
    """Saliency-aware cropping: the share of its image's mask that each crop keeps, where ten tries
    find it (CAST: 0.2); else the try that keeps most. 0 is off; it needs masks, and none of DiLo's
    other settings."""
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
    second_blur_p: float | None = None
    """Probability of blur of the second view; None takes the first's (BYOL: 1.0 and 0.1)."""
    solarise_p: tuple[float, float] = (0.0, 0.0)
    """Probability of solarisation of the first and of the second view: values from half up are
    inverted (BYOL)."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""

    paste_p: float = 0.3
    """DiLo: probability, per view and independently, that the foreground is pasted onto another
    background."""
    soften_p: float = 0.5
    """DiLo: probability that the mask of a pasted view is blurred first."""
    soften_sigma: float = 5.0
    """DiLo: sigma of that blur, in pixels of the source image (5 at ImageNet's native size; scale
    it to yours)."""
    background: Literal["grey", "texture", "image", "random", "swap"] = "grey"
    """DiLo: what the foreground is pasted onto. grey: one level, uniform in 0..254; texture: a
    picture of --textures;
    image: a training image with little foreground, see --pool; random: a training image, its own
        foreground filled in;
    swap: the same for the positive alone, and a negative with the query's background (both Ryali et
        al. 2021)."""
    textures: str | None = None
    """Folder or tar of pictures for --background texture."""
    pool: float = 0.1
    """--background image: share of the training images, those whose masks cover least, that serve
    as backgrounds."""
    paste_views: Literal["auto", "both", "query", "key"] = "auto"
    """Which views may be pasted: both, the first (query) or the second (key, the positive); auto is
    key for swap and both for the others."""
    mask_coverage: tuple[float, float] = (0.0, 1.0)
    """Masks that cover no more than the first share of their image, or no less than the second, are
    never pasted: empty and full ones by default."""
    control: Literal["none", "shuffled", "ellipse", "truth"] = "none"
    """Control experiment: shuffled pastes by another image's mask, ellipse by a centred ellipse of
    the same coverage; truth is ordinary pasting, refused unless the cache is one of true masks
    (made with --estimator files)."""

    epochs: int = 200
    """Passes over the images."""
    batch: int = 256
    """Images a step; the last, smaller batch of an epoch is left out."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """SGD, or LARS for batches of thousands; both with momentum 0.9. LARS spares biases and norms
    (no decay)."""
    lr: float = 0.03
    """Largest learning rate; not scaled by the batch."""
    schedule: Literal["cosine", "step", "warmup_cosine"] = "cosine"
    """The rate falls by half a cosine over all steps; to a tenth at each of --milestones (MoCo v1,
    InstDisc); or by half a cosine over the steps after the warm-up (SimCLR, BYOL)."""
    milestones: tuple[int, ...] = (120, 160)
    """Epochs after which --schedule step takes a tenth of the rate."""
    warmup: float = 0.0
    """Epochs over which the learning rate rises from 0 first (MoCo has none); a shorter run rises
    to its end."""
    weight_decay: float = 1e-4
    """Weight decay."""
    seed: int = 0
    """Seed of weights, order, crops, colours and pastes."""

    workers: int = 8
    """Processes that decode and crop, a training process; 0 does it in that. Does not change the
    result."""
    threads: int = 0
    """CPU threads of the training process; 0 leaves torch's default."""
    device: str = "auto"
    """cuda, cpu, or auto (cuda where there is one)."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto computes in bfloat16 on a GPU and in float32 on a CPU; losses are float32 always."""
    compile: bool = False
    """Compile the networks with torch.compile: minutes at the start, faster steps; the last digits
    may differ."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints; Ctrl-C, SIGTERM and SIGUSR1 save one too."""
    keep: int = 2
    """Newest checkpoints that are kept: should the last one be damaged, the run goes on from the
    one before."""

    knn: str | None = None
    """Folder with train/CLASS/... and val/CLASS/...: nearest-neighbour accuracy on it as the run
    goes, in the log."""
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
            raise UsageError(
                f"--batch {self.batch} does not divide into --splits {self.splits} BatchNorm splits"
            )
        if self.batch // self.splits < 2:
            raise UsageError(
                f"--batch {self.batch} over --splits {self.splits} leaves one image a split; BatchNorm "
                "needs two"
            )
        for name in ("jitter_p", "grey_p", "blur_p", "flip_p", "paste_p", "soften_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: a probability is in 0..1"
                )
        for name in (
            "epochs",
            "batch",
            "queue",
            "size",
            "dim",
            "width",
            "splits",
            "log_every",
            "checkpoint_every",
            "keep",
            "knn_every",
            "knn_k",
            "knn_limit",
        ):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1"
                )
        for name in ("warmup", "lr", "weight_decay", "workers", "threads"):
            if getattr(self, name) < 0:
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 0"
                )
        for name in ("temperature", "soften_sigma", "knn_temperature"):
            if getattr(self, name) <= 0:
                raise UsageError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0"
                )
        if not 0 <= self.seed < 2**32:
            raise UsageError(
                f"--seed {self.seed}: must be in 0..{2**32 - 1}"
            )  # train/streams.py's keys
        self._check_method()
        self._check_views()
        self._check_pasting()

    def pasted_views(self) -> Literal["both", "query", "key"]:
        """--paste-views with auto resolved."""
        if self.paste_views == "auto":
            return "key" if self.background == "swap" else "both"
        return self.paste_views

    def _check_views(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UsageError(
                f"--crop {self.crop[0]} {self.crop[1]}: needs 0 < smallest <= largest <= 1"
            )
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise UsageError(
                f"--blur-sigma {self.blur_sigma[0]} {self.blur_sigma[1]}: needs 0 < smallest <= largest"
            )
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise UsageError(
                f"--jitter {' '.join(map(str, self.jitter))}: needs strengths of at least 0, the hue's at "
                "most 0.5"
            )
        for p in (*self.solarise_p, *([] if self.second_blur_p is None else [self.second_blur_p])):
            if not 0 <= p <= 1:
                raise UsageError(
                    f"--solarise-p and --second-blur-p are probabilities, in 0..1: {p}"
                )

    def _check_pasting(self) -> None:
        if self.control != "none" and self.masks == "none":
            raise UsageError(
                f"--control {self.control} needs --masks CACHE: it says by which masks to paste"
            )
        if self.background != "grey" and self.masks == "none":
            raise UsageError(
                f"--background {self.background} needs --masks CACHE: without masks nothing is pasted"
            )
        if (self.background == "texture") != (self.textures is not None):
            raise UsageError("--background texture and --textures FOLDER need each other")
        if not 0 <= self.crop_keeps <= 1:
            raise UsageError(f"--crop-keeps {self.crop_keeps}: a share is in 0..1")
        if self.crop_keeps and self.masks == "none":
            raise UsageError(
                f"--crop-keeps {self.crop_keeps} needs --masks CACHE: it keeps a share of them"
            )
        if not 0 < self.pool <= 1:
            raise UsageError(f"--pool {self.pool}: a share is in 0..1, above 0")
        if not 0 <= self.mask_coverage[0] < self.mask_coverage[1] <= 1:
            raise UsageError(
                f"--mask-coverage {self.mask_coverage[0]} {self.mask_coverage[1]}: needs 0 <= first < "
                "second <= 1"
            )
        if self.background == "swap" and self.pasted_views() == "query":
            raise UsageError(
                "--paste-views query: swap puts the positive, the key, on another background"
            )
        if self.method == "instdisc" and self.pasted_views() == "key":
            raise UsageError(
                "--paste-views key: instdisc has one view, the query; nothing would be pasted"
            )

    def _check_method(self) -> None:
        if self.method in ("byol", "instdisc") and self.background == "swap":
            why = (
                "has no negatives, so swap's negative with the query's background has no place; only its positive "
                "would change"
                if self.method == "byol"
                else "takes its negatives from the memory bank alone"
            )
            raise UsageError(f"--background swap: {self.method} {why}; use --background random")
        if self.method in ("simclr", "byol") and self.head == "linear":
            raise UsageError(f"--head linear: {self.method} has a two-layer head")
        if self.head == "linear" and self.head_norm:
            raise UsageError(
                "--head-norm needs --head mlp: a linear head has no place for BatchNorm"
            )
        for name in ("symmetric", "batch_negatives"):
            if getattr(self, name) and self.method != "moco":
                raise UsageError(f"--{name.replace('_', '-')} is MoCo's, not {self.method}'s")
        if self.hidden and self.method not in ("simclr", "byol"):
            raise UsageError(
                f"--hidden {self.hidden}: is SimCLR's and BYOL's; {self.method}'s head keeps the "
                "backbone's width (0)"
            )
        if self.hidden < 0:
            raise UsageError(f"--hidden {self.hidden}: must be at least 0")
        if self.negatives < 1:
            raise UsageError(f"--negatives {self.negatives}: must be at least 1")
        for name in ("momentum", "bank_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: is in 0..1")
        if any(m < 1 for m in self.milestones) or list(self.milestones) != sorted(
            set(self.milestones)
        ):
            raise UsageError(
                f"--milestones {' '.join(map(str, self.milestones))}: epochs from 1 on, rising"
            )


def defaults() -> dict:
    """Every setting's default: what a run made before the setting existed had."""
    return {
        f.name: list(f.default) if isinstance(f.default, tuple) else f.default
        for f in dataclasses.fields(Config)
        if f.default is not dataclasses.MISSING and f.name not in RUNTIME
    }


def identity(
    config: Config,
    paths: np.ndarray,
    masks: str,
    textures: np.ndarray | None = None,
    altered: str = "",
) -> dict:
    """What makes two runs the same run: JSON-able.

    Args:
        paths: (N,) bytes, the run's images.  masks: the cache's identity hash, or "none".
        textures: (P,) bytes, the pictures of --background texture.
        altered: how a pack reduced the images, see Images.altered.
    """
    fields = {k: v for k, v in dataclasses.asdict(config).items() if k not in RUNTIME}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    found = {"images": paths} if textures is None else {"images": paths, "textures": textures}
    digests = {
        k: hashlib.blake2b(b"\n".join(v.tolist()), digest_size=8).hexdigest()
        for k, v in found.items()
    }
    lists = {k: f"{len(v)} images, list {digests[k]}" for k, v in found.items()}
    if altered:
        lists["images"] += f", {altered}"
    return fields | lists | {"masks": masks}
