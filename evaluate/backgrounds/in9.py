"""The Backgrounds Challenge on ImageNet-9: does accuracy hang on the background? (Xiao et al., ICLR
2021)

    python -m evaluate in9 --weights resnet50-0676ba61.pth --data DIR     # a 1000-way head
    python -m evaluate in9 --run RUN --data DIR                           # RUN/linear-seed0.pt
    python -m evaluate in9 --run RUN --data DIR --train original/train    # a 9-way probe

DIR is the official download: VARIANT/val/CLASS/image, with the nine classes 00_dog to 08_fish. A
1000-way head's classes are mapped to the nine by in_to_in9.json (of
github.com/MadryLab/backgrounds_challenge; in DIR or --mapping): 370 of them; the other 630 count
as wrong. A set made by `python -m data challenge` is read too, with its own classes and a probe on
--train images of these; its `biased` variant has two groups of each class, with a background of the
own class and of another, and the accuracy of the worst is reported. BG-Gap is mixed_same -
mixed_rand; read it beside the accuracy on original, for a weak network has a small gap too. Nothing
is drawn: seeds repeat over networks.
"""

import json
import operator
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from data.cli import UsageError, note, require
from data.sources.labelled import whole_image
from data.synthetic.variants import BIASED, VARIANTS
from data.tensors import fitting, load_tensors
from evaluate.backgrounds.challenge import challenge
from evaluate.common import Common, aligned, describe, refuse_unused, repeat
from evaluate.features import Encoder, accuracy_by_class, extract, load_encoder, project
from evaluate.probes.linear import L2, fit_probe
from evaluate.published import IN9
from train.features import Labelled

KEPT = "linear-seed0.pt"  # what `evaluate linear` keeps in a run
CLASSES, MAPPED = 9, 370  # of ImageNet's 1000 classes


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the ImageNet-9 evaluation."""

    train: str | None = None
    """Folder of training images of the nine classes (CLASS/image, or train/CLASS/image), to train a
    9-way probe on."""
    head: str | None = None
    """Classifier of ImageNet's 1000 classes made by `evaluate linear` for this network (default:
    the fc of --weights, or RUN/linear-seed0.pt, where there is one)."""
    mapping: str | None = None
    """in_to_in9.json (default: DATA/in_to_in9.json, or beside DATA)."""
    l2: float = L2
    """Weight of the squared norm of the 9-way probe (on standardised features)."""
    challenge: bool = False
    """Also the adversarial challenge: every foreground on every background of only_bg_t (GPU hours:
    4,050 x 4,050 pictures, less those that need not be tried)."""

    evaluation: ClassVar[str] = "in9"
    folders: ClassVar[tuple[str, ...]] = (*VARIANTS, BIASED, "fg_mask", "challenge.json")

    def inputs(self) -> list[Path]:
        heads = [Path(self.head)] if self.head else [s.with_name(KEPT) for s in self.sources()]
        mapping = Path(self.mapping) if self.mapping else _find_mapping(self.data)
        train = [Path(self.train)] if self.train else []
        return [*super().inputs(), *heads, mapping, *train]


def read_mapping(file: str | os.PathLike) -> np.ndarray:
    """(1000,) int64: the superclass 0..8 of each of ImageNet's classes, -1 for none.

    Raises:
        UsageError: no such file, or not the official mapping: 370 classes to nine, 630 to none.
    """
    try:
        content = json.loads(Path(file).read_bytes())
        superclasses = np.array([operator.index(content[str(i)]) for i in range(1000)])
    except FileNotFoundError:
        raise UsageError(
            f"{file}: no such mapping; in_to_in9.json is in "
            "github.com/MadryLab/backgrounds_challenge; give it with --mapping"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{file}: not a mapping of the classes 0 to 999 to numbers") from error
    values = set(superclasses.tolist())
    mapped = int((superclasses >= 0).sum())
    if len(content) != 1000 or mapped != MAPPED or values != set(range(-1, CLASSES)):
        raise UsageError(
            f"{file}: maps {mapped} of {len(content)} classes to {len(values) - 1}; the "
            f"official mapping has {MAPPED} of 1000 to {CLASSES}, and {1000 - MAPPED} to none (-1)"
        )
    return superclasses


def read_head(file: Path, encoder: Encoder) -> nn.Linear:
    """The classifier that `evaluate linear` kept. UsageError where it is another network's,
    unfinished, or not ImageNet's."""
    state = load_tensors(file, "classifier", "run `python -m evaluate linear` again")
    head = nn.Linear(encoder.dimensions, 1000)
    try:
        identity = json.loads(state["identity"])
        layer = {name: torch.as_tensor(value) for name, value in state["model"].items()}
        names, weights = identity["classes"], identity["weights"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: not a classifier made by `python -m evaluate linear`") from error
    if weights != encoder.digest:
        raise UsageError(f"{file}: is a classifier on another network's features")
    if "optimizer" in state:
        raise UsageError(f"{file}: is not finished; the same `evaluate linear` continues it")
    if len(names) != 1000 or not all(re.fullmatch(r"n\d{8}", name) for name in names):
        raise UsageError(
            f"{file}: has {len(names)} classes, not ImageNet's 1000 (n01440764 ...); give --train "
            "DIR for a 9-way probe instead"
        )
    head.load_state_dict(fitting(layer, head.state_dict(), f"{file}: a damaged classifier"))
    return head.requires_grad_(False).to(encoder.device)


def own_description(data: str) -> dict | None:
    """challenge.json of a set made by `python -m data challenge`, with its "classes"; None for the
    official nine.

    Raises:
        UsageError: an unfinished set, one for training, or a damaged description.
    """
    file = Path(data, "challenge.json")
    if file.with_name(f"{file.name}.tmp").exists():
        raise UsageError(f"{data}: unfinished; the same `python -m data challenge` continues it")
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_bytes())
        named = all(isinstance(name, str) for name in content["classes"])
        counted = sum(content["counts"].values()) >= len(content["classes"]) > 1
        sound = content["name"] == "dilo-challenge" and named and counted
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UsageError(f"{file}: not what `python -m data challenge` writes; make the set again")
    if content.get("split") == "train":
        raise UsageError(
            f"{data}: made with --split train, to train on; give one of its variants, for instance "
            f"{data}/mixed_rand/train, as --train, and a set made without that option as --data"
        )
    return content


def own_background(description: dict | None, images: Labelled) -> np.ndarray:
    """(N,) bool: whether the background of an image of `biased` is of the image's own class.

    Raises:
        UsageError: the set's description does not name its donor.
    """
    try:
        backgrounds = description["backgrounds"]
        donors = {os.path.splitext(path)[0]: other[BIASED] for path, other in backgrounds.items()}
        stems = [os.path.splitext(os.fsdecode(path))[0] for path in images.paths.tolist()]
        return np.array([donors[stem].split("/")[0] == stem.split("/")[0] for stem in stems])
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{images.root}: no challenge.json says whose backgrounds these are; make the set again"
        ) from None


def images_of(folder: str, size: int, classes: list[str] | None = None) -> Labelled:
    """Whole images of the nine classes, or of `classes`. UsageError where the folders are
    others."""
    images = Labelled(folder, size, classes, whole_image)
    official = [name[:3] for name in images.classes] == [f"{i:02d}_" for i in range(CLASSES)]
    if classes is None and not official:
        raise UsageError(
            f"{folder}: needs the nine class folders 00_dog to 08_fish; it has "
            f"{', '.join(images.classes[:3])} ... ({len(images.classes)})"
        )
    return images


def variants_of(data: str, size: int, description: dict | None) -> dict[str, Labelled]:
    """Images of every variant that is in DATA. UsageError where images or variants are missing."""
    names = (*VARIANTS, BIASED)
    present = [v for v in names if os.path.isdir(os.path.join(data, v, "val"))]
    if not {"mixed_same", "mixed_rand"} <= set(present):
        raise UsageError(
            f"{data}: needs at least mixed_same/val and mixed_rand/val, as the official download "
            "has"
        )
    variants, classes = {}, description and description["classes"]
    for variant in present:
        images = variants[variant] = images_of(os.path.join(data, variant, "val"), size, classes)
        count = sum(description["counts"].values()) if description else len(images)
        if len(images) != count:
            raise UsageError(
                f"{images.root}: has {len(images)} of {count} images; the same `python -m data "
                "challenge` writes those that are missing"
            )
    return variants


def evaluate(arguments: Arguments) -> dict:
    """Accuracy on every variant that is in DATA, and BG-Gap, by a 1000-way head, a 9-way probe, or
    both.

    Returns:
        the protocol's parameters, `accuracy`: {"head" and/or "probe": {variant: percent, "bg_gap",
        "worst_group", "challenge"}}, `per_class`: {...: {variant: {class: percent}}}, with the
        classes' two groups as "own_background" and "other_background", `published`: other models'
        rows, with their sources; means over the seeds' networks, since nothing is drawn here: see
        evaluate.common.repeat.
    """
    require(arguments, l2=0)
    if not arguments.train:
        refuse_unused(arguments, "l2", "without --train")
    return repeat(arguments, _measure)


def _measure(arguments: Arguments, seed: int) -> dict:
    encoder = load_encoder(arguments, seed)
    data = arguments.data
    description = own_description(data)
    classes = description and description["classes"]
    variants = variants_of(data, encoder.size, description)
    protocol = {"features": "backbone, pooled", "crop": f"whole image, {encoder.size} px"}
    deciders = _deciders(arguments, encoder, classes, protocol)
    accuracy, per_class = defaultdict(dict), defaultdict(dict)
    for variant, images in variants.items():
        features = extract(encoder, images)
        protocol[f"{variant}_images"] = len(images)
        for kind, decide in deciders.items():
            right = decide(features) == images.labels
            accuracy[kind][variant] = 100 * float(right.mean())
            per_class[kind][variant] = accuracy_by_class(right, images.labels, images.classes)
            if variant == BIASED:
                own, worst = own_background(description, images), []
                for group, rows in (("own_background", own), ("other_background", ~own)):
                    by_class = accuracy_by_class(right[rows], images.labels[rows], images.classes)
                    per_class[kind][group] = by_class
                    worst += by_class.values()
                accuracy[kind]["worst_group"] = min(worst)
    for kind, values in accuracy.items():
        values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
        if arguments.challenge:
            decide = deciders[kind]
            values["challenge"] = challenge(encoder, decide, data, images.classes)
    published = IN9 if classes is None else []
    return arguments.result(protocol, accuracy=accuracy, per_class=per_class, published=published)


# (N, D) features -> (N,) places in the classes, or -1
Decide = Callable[[np.ndarray], np.ndarray]


def _deciders(
    arguments: Arguments, encoder: Encoder, classes: list[str] | None, protocol: dict
) -> dict[str, Decide]:
    """The "head" and "probe" that the options name; their parameters are put into `protocol`.
    UsageError where there is none."""
    data, deciders = arguments.data, {}
    if classes and (arguments.head or not arguments.train):
        raise UsageError(
            f"{data}: a set of its own classes needs --train DIR, training images of these "
            "classes, and no --head, which has ImageNet's"
        )
    head = None if classes else _head(arguments, encoder)
    if head is None:
        refuse_unused(arguments, "mapping", "without a 1000-way classifier")
    else:
        mapping = read_mapping(arguments.mapping or _find_mapping(data))
        text = f"1000-way, {MAPPED} classes mapped to {CLASSES}, the others count as wrong"
        protocol["head"] = text
        deciders["head"] = lambda x: mapping[project(head, x, encoder.device).argmax(1)]
    if arguments.train:
        if any(Path(arguments.train).glob("challenge.json*")):
            raise UsageError(
                f"{arguments.train}: a whole challenge set; give one variant of a set made with "
                f"--split train, for instance {arguments.train}/mixed_rand/train"
            )
        inner = os.path.join(arguments.train, "train")
        folder = inner if os.path.isdir(inner) else arguments.train
        images = images_of(folder, encoder.size, classes)
        features = extract(encoder, images)
        probe = fit_probe(features, images.labels, len(images.classes), arguments.l2)
        protocol["probe"] = f"{len(images.classes)}-way, L-BFGS on standardised features"
        protocol |= {"l2": arguments.l2, "train": arguments.train, "train_images": len(images)}
        deciders["probe"] = lambda x: probe.scores(x).argmax(1)
    if not deciders:
        raise UsageError(
            "no classifier: give --train DIR (images of the nine classes) for a 9-way probe, or "
            "--head FILE made by `python -m evaluate linear` on ImageNet, or --weights with a "
            "1000-way fc"
        )
    return deciders


def _head(arguments: Arguments, encoder: Encoder) -> nn.Linear | None:
    """The 1000-way classifier: named, kept in the run where no probe is wanted, or of the file of
    weights; the latter beside a probe only where there is a mapping."""
    kept = Path(arguments.run or "", KEPT)
    if arguments.head:
        return read_head(Path(arguments.head), encoder)
    if arguments.run and kept.exists() and not arguments.train:
        return read_head(kept, encoder)
    mapping = Path(arguments.mapping or _find_mapping(arguments.data))
    if encoder.classifier and arguments.train and not (arguments.mapping or mapping.exists()):
        note(f"{mapping}: no such mapping; the weights' 1000-way classifier is not evaluated")
        return None
    return encoder.classifier


def _find_mapping(data: str) -> Path:
    places = [Path(data, "in_to_in9.json"), Path(data).resolve().parent / "in_to_in9.json"]
    return next((place for place in places if place.exists()), places[0])


def lines(result: dict) -> list[str]:
    """The result as it is printed: a table with the published rows below ours."""
    rows = {f"ours, {kind}": values for kind, values in result["accuracy"].items()}
    for kind, values in result.get("deviation", {}).items():
        rows[f"± {kind}, {result['protocol']['seeds']} seeds"] = values
    for row in result["published"]:
        rows[row["model"] + " (second-hand)" * ("second-hand" in row["source"])] = row
    columns = (*VARIANTS, "bg_gap", BIASED, "worst_group", "challenge")
    table = {
        f"  {name}": {c: f"{values[c]:.1f}" for c in columns if c in values}
        for name, values in rows.items()
    }
    return [f"in9 ({describe(result['protocol'])})", *aligned(table)]
