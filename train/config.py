"""One pretraining run's settings, as nested frozen dataclasses whose flags on the command line are
flat; and what of them must not change when a run is continued.

A method's settings are in its own file (train/methods/); presets are in train/presets.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeVar,
    get_type_hints,
)

import tyro

from data.cli import UsageError, note
from data.io import sha256

if TYPE_CHECKING:  # torch takes seconds to import; benchmarks and notebooks only need the settings
    from torch import nn


@dataclass(frozen=True)
class Range:
    """What a number, or each number of a tuple, may be: low..high.

    Attributes:
        high: 1e9 of anything is a mistake, and float32 ends at 3e38.
        above: `low` itself is excluded.
        rising: a tuple's numbers must not fall.
    """

    low: float
    high: float = 1e9
    above: bool = False
    rising: bool = False

    def holds(self, values: list[float]) -> bool:
        """Whether values are in the range."""
        within = all(self.low <= v <= self.high for v in values)
        excluded = self.above and self.low in values
        return within and not excluded and not (self.rising and values != sorted(values))

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'at least'} {self.low:g}"
        return f"{least} and at most {self.high:g}{', rising' if self.rising else ''}"


Share = Annotated[float, Range(0, 1)]
Probability = Share
Count = Annotated[int, Range(1)]
Width = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Side = Annotated[int, Range(1, 8192)]
Processes = Annotated[int, Range(0, 1024)]


@dataclass(frozen=True)
class Network:
    """The backbone."""

    network: Literal["resnet50", "resnet18", "resnet10"] = "resnet50"
    """Backbone; resnet10 is a narrow one for 32 px and CPUs."""
    stem: Literal["imagenet", "small", "small_stride2"] = "imagenet"
    """First layer: 7x7 stride 2 and max-pooling, or for small images 3x3 without pooling, at stride
    1 or 2."""
    width: Count = 64
    """Channels of the first stage (resnet10 only; 64 otherwise)."""
    splits: Count = 8
    """BatchNorm splits of a batch on one process, so that the statistics do not give the positive
    away; 1 = off."""


@dataclass(frozen=True)
class MethodSettings:
    """What each method's own settings extend.

    Attributes:
        method: pretraining method; start from a preset of its own, the other settings are not
            adapted to it.
        VIEWS: how many views of an image it takes, 1 or 2.
        NO_SWAP: why the extra negative of `swap` has no place in it; empty where it has one.
    """

    VIEWS: ClassVar[int] = 2
    NO_SWAP: ClassVar[str] = ""

    method: str
    dim: Count = 128
    """Dimensions of the embedding."""
    head_norm: bool = False
    """BatchNorm in the heads: as published for SimCLR and BYOL; MoCo v2 has none, but it helps runs
    of a few hundred steps."""

    def check(self) -> None:
        """UsageError where settings do not fit together."""

    def make(self, config: Config, images: int) -> nn.Module:
        """The method's module, see train/methods/__init__.py.

        Args:
            images: number of training images.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ViewSettings:
    """Crops and colours."""

    size: Side = 224
    """Side of a view, in pixels."""
    crop: Annotated[tuple[float, float], Range(0, 1, above=True, rising=True)] = (0.2, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    crop_keeps: Share = 0.0
    """Saliency-aware cropping: the share of its image's mask that each crop keeps, where ten tries
    find it (CAST: 0.2); else the try that keeps most. 0 is off; it needs masks, and none of DiLo's
    other settings."""
    jitter: Annotated[tuple[float, float, float, float], Range(0, 1000)] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter."""
    jitter_p: Probability = 0.8
    """Probability of colour jitter."""
    grey_p: Probability = 0.2
    """Probability of greyscale."""
    blur_p: Probability = 0.5
    """Probability of Gaussian blur of the view."""
    blur_sigma: Annotated[tuple[float, float], Range(0, 100, above=True, rising=True)] = (0.1, 2.0)
    """Smallest and largest sigma of that blur, in pixels of the view."""
    second_blur_p: Annotated[float | None, Range(0, 1)] = None
    """Probability of blur of the second view; None takes the first's (BYOL: 1.0 and 0.1)."""
    solarise_p: Annotated[tuple[float, float], Range(0, 1)] = (0.0, 0.0)
    """Probability of solarisation of the first and of the second view: values from half up are
    inverted (BYOL)."""
    flip_p: Probability = 0.5
    """Probability of a horizontal flip."""


@dataclass(frozen=True)
class PasteSettings:
    """DiLo's copy-paste."""

    paste_p: Probability = 0.3
    """DiLo: probability, per view and independently, that the foreground is pasted onto another
    background."""
    soften_p: Probability = 0.5
    """DiLo: probability that the mask of a pasted view is blurred first."""
    soften_sigma: Annotated[float, Range(0, 1000, above=True)] = 5.0
    """DiLo: sigma of that blur, in pixels of the source image (5 at ImageNet's native size; scale
    it to yours)."""
    background: Literal["grey", "texture", "image", "random", "swap"] = "grey"
    """DiLo: what the foreground is pasted onto. grey: one level, uniform in 0..254; texture: a
    picture of --textures; image: a training image with little foreground, see --pool; random: a
    training image, its own foreground filled in; swap: the same for the positive alone, and a
    negative with the query's background (both Ryali et al. 2021)."""
    textures: str | None = None
    """Folder or tar of pictures for --background texture."""
    pool: Annotated[float, Range(0, 1, above=True)] = 0.1
    """--background image: share of the training images, those whose masks cover least, that serve
    as backgrounds."""
    paste_views: Literal["auto", "both", "query", "key"] = "auto"
    """Which views may be pasted: both, the first (query) or the second (key, the positive); auto is
    key for swap and both for the others."""
    mask_coverage: Annotated[tuple[float, float], Range(0, 1, rising=True)] = (0.0, 1.0)
    """Masks that cover no more than the first share of their image, or no less than the second, are
    never pasted: empty and full ones by default."""
    control: Literal["none", "shuffled", "ellipse", "truth"] = "none"
    """Control experiment: shuffled pastes by another image's mask, ellipse by a centred ellipse of
    the same coverage; truth is ordinary pasting, refused unless the cache is one of true masks
    (made with --estimator files)."""

    @cached_property
    def pasted_views(self) -> tuple[int, ...]:
        """The views that may be pasted, 0 the query and 1 the key: --paste-views, auto resolved."""
        auto = "key" if self.background == "swap" else "both"
        name = auto if self.paste_views == "auto" else self.paste_views
        return {"both": (0, 1), "query": (0,), "key": (1,)}[name]


@dataclass(frozen=True)
class Optimiser:
    """Steps, learning rate and precision."""

    epochs: Count = 200
    """Passes over the images."""
    batch: Count = 256
    """Images a step; the last, smaller batch of an epoch is left out."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    """SGD, or LARS for batches of thousands; both with momentum 0.9. LARS spares biases and norms
    (no decay)."""
    lr: Annotated[float, Range(0, 1e30)] = 0.03
    """Largest learning rate; not scaled by the batch. May be lowered where a run's loss was not
    finite."""
    schedule: Literal["cosine", "step", "warmup_cosine"] = "cosine"
    """The rate falls by half a cosine over all steps; to a tenth at each of --milestones (MoCo v1,
    InstDisc); or by half a cosine over the steps after the warm-up (SimCLR, BYOL)."""
    milestones: Annotated[tuple[int, ...], Range(1, rising=True)] = (120, 160)
    """Epochs after which --schedule step takes a tenth of the rate."""
    warmup: Annotated[float, Range(0)] = 0.0
    """Epochs over which the learning rate rises from 0 first (MoCo has none); a shorter run rises
    to its end."""
    weight_decay: Annotated[float, Range(0, 1e30)] = 1e-4
    """Weight decay."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto computes in bfloat16 on a GPU and in float32 on a CPU; losses are float32 always."""


@dataclass(frozen=True)
class Runtime:
    """How the run is made, and not what it is: may change when a run is continued."""

    workers: Annotated[int | None, Range(0, 1024)] = None
    """Processes that decode and crop, a training process (default: its share of the CPUs that this
    machine lets it use, fewer where /dev/shm has less room); 0 does it in that. Does not change the
    result."""
    threads: Processes = 0
    """CPU threads of the training process; 0 leaves torch's default."""
    device: str = "auto"
    """cuda, cpu, or auto (cuda where there is one)."""
    compile: bool = False
    """Compile the networks with torch.compile: minutes at the start, faster steps; the last digits
    may differ."""
    log_every: Count = 20
    """Steps between two lines of the log."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints; Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP save one too."""
    keep: Count = 2
    """Newest checkpoints that are kept: should the last one be damaged, the run goes on from the
    one before."""
    replay: str | None = None
    """A run's diverged.json: show the batch at which its loss was not finite, in replay.png beside
    it, and recompute its loss by the kept weights, on one process; nothing is trained."""


@dataclass(frozen=True)
class KnnSettings:
    """Accuracy as the run goes: may change when a run is continued."""

    knn: str | None = None
    """Folder with train/CLASS/... and val/CLASS/...: nearest-neighbour accuracy on it as the run
    goes, in the log."""
    knn_every: Count = 5
    """Epochs between two such measurements; there is one at the end too."""
    knn_k: Count = 20
    """Neighbours of that measurement."""
    knn_temperature: Positive = 0.07
    """Temperature of the neighbours' weights."""
    knn_limit: Count = 50000
    """At most so many images of each of the two folders, evenly spaced."""


Method = TypeVar("Method", bound=MethodSettings)


@dataclass(frozen=True)
class Config(Generic[Method]):
    """Pretrain with contrastive learning and DiLo copy-paste. Defaults are those of the chosen
    preset."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of training images, any depth, or a tar (ImageNet's tar of tars too); labels are not
    used."""
    out: str
    """Run folder; the same command continues the run in it."""
    method: Method
    masks: str = "none"
    """Mask cache made by `python -m preprocess`, or none: the baseline without DiLo."""
    listed: Annotated[str | None, tyro.conf.arg(name="list")] = None
    """Text file of relative paths, one a line: train on these images only."""
    exclude: str | None = None
    """Text file of relative paths, one a line: leave these out (images whose masks you have seen to
    be wrong, say)."""
    preset: str = "moco_v2"
    """Name of the settings to start from; an unknown one lists them."""
    init: str | None = None
    """Weights to begin from: a file of anyone's ResNet (MoCo's, torchvision's, timm's ...), or a
    finished run; the projection head is taken too where it fits."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of weights, order, crops, colours and pastes."""
    network: Network = field(default_factory=Network)
    views: ViewSettings = field(default_factory=ViewSettings)
    paste: PasteSettings = field(default_factory=PasteSettings)
    optimiser: Optimiser = field(default_factory=Optimiser)
    runtime: Runtime = field(default_factory=Runtime)
    knn: KnnSettings = field(default_factory=KnnSettings)

    def check(self) -> None:
        """UsageError where a value is out of its range, or values do not fit together."""
        _check_ranges(self)
        self.method.check()
        batch, splits = self.optimiser.batch, self.network.splits
        paste, method, (*_, hue) = self.paste, self.method, self.views.jitter
        swap = paste.background == "swap"
        needs = "needs --masks CACHE: it uses the images' masks"
        unmasked = self.masks == "none"
        problems = [
            (unmasked and paste.control != "none", f"--control {paste.control} {needs}"),
            (unmasked and paste.background != "grey", f"--background {paste.background} {needs}"),
            (unmasked and self.views.crop_keeps, f"--crop-keeps {self.views.crop_keeps} {needs}"),
            (
                batch % splits,
                f"--batch {batch} does not divide into --splits {splits} BatchNorm splits",
            ),
            (
                batch < 2 * splits,
                f"--batch {batch} over --splits {splits} leaves one image a split; BatchNorm needs "
                "two",
            ),
            (hue > 0.5, f"--jitter: a hue of {hue} must be at most 0.5"),
            (
                (paste.background == "texture") != bool(paste.textures),
                "--background texture and --textures FOLDER need each other",
            ),
            (
                len(set(paste.mask_coverage)) < 2,
                f"--mask-coverage {paste.mask_coverage}: leaves no mask",
            ),
            (
                swap and method.NO_SWAP,
                f"--background swap: {method.method} {method.NO_SWAP}; use --background random",
            ),
            (
                swap and 1 not in paste.pasted_views,
                "--paste-views query: swap puts the positive, the key, on another background",
            ),
            (
                min(paste.pasted_views) >= method.VIEWS,
                f"--paste-views key: {method.method} has one view, the query; nothing would be "
                "pasted",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise UsageError(message)

    def identity(self) -> dict[str, Any]:
        """The settings that must not change when a run is continued, and the digests of the weights
        that it began from, where they are still there: JSON-able, flat."""
        outside = {"images", "out", "masks", "listed", "exclude", "preset", "textures", "init"}
        outside |= flat(self.runtime).keys() | flat(self.knn).keys()
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in flat(self).items()
            if name not in outside
        }
        if self.init is None:
            return settings | {"init": "none"}
        backbone, *head = _init_files(self.init)
        if not backbone.is_file():
            note(f"--init {self.init}: no such file, so not compared with what the run began from")
            return settings
        digests = [sha256(file) for file in (backbone, *head)]
        return settings | {"init": " ".join(digests)}


def _init_files(init: str) -> list[Path]:
    """The files of --init: a run's are its finished backbone and, where it is there, its head."""
    folder = Path(init)
    if not folder.is_dir():
        return [folder]
    backbone, head = folder / "backbone.pt", folder / "head.pt"
    return [backbone, head] if head.is_file() else [backbone]


def flat(settings: Any) -> dict[str, Any]:
    """{field: value} of a settings dataclass, nested ones included."""
    values = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        values |= flat(value) if dataclasses.is_dataclass(value) else {entry.name: value}
    return values


def flag(name: str) -> str:
    """The command line's name of a field."""
    return "--" + {"listed": "list"}.get(name, name).replace("_", "-")


def _check_ranges(settings: Any) -> None:
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value)
        values = list(value) if isinstance(value, tuple) else [value]
        for limits in getattr(hints[entry.name], "__metadata__", ()):
            if isinstance(limits, Range) and value is not None and not limits.holds(values):
                shown = " ".join(map(str, values))
                raise UsageError(f"{flag(entry.name)} {shown}: must be {limits}")
