"""The Backgrounds Challenge on ImageNet-9: does accuracy hang on the background? (Xiao et al., ICLR
2021)

    python -m evaluate in9 --weights resnet50-0676ba61.pth --data backgrounds_challenge_data    # a
    1000-way head
    python -m evaluate in9 --run RUN --data backgrounds_challenge_data                          #
    RUN/linear-seed0.pt
    python -m evaluate in9 --run RUN --data backgrounds_challenge_data --train original/train   # a
    9-way probe

DATA is the official download: VARIANT/val/CLASS/image, with the nine classes 00_dog to 08_fish. A
1000-way head's classes are mapped to the nine by in_to_in9.json (of
github.com/MadryLab/backgrounds_challenge; in DATA or --mapping): 370 of them; the other 630 count
as wrong. A set made by `python -m data challenge` is read too, with its own classes and a probe on
--train images of these. BG-Gap is mixed_same - mixed_rand; read it beside the accuracy on original,
for a weak network has a small gap too.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from data.cli import UsageError
from data.sources.labelled import whole_image
from evaluate.backgrounds.challenge import challenge
from evaluate.common import Common, describe, repeat
from evaluate.features import Encoder, Labelled, encoder_of, extract_from, project
from evaluate.probes.linear import L2, fit_probe
from evaluate.published import in9_table
from train import checkpoint

VARIANTS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "only_fg",
    "no_fg",
    "only_bg_b",
    "only_bg_t",
)
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

    @property
    def evaluation(self) -> str:
        return "in9"


def read_mapping(file: str | os.PathLike) -> np.ndarray:
    """(1000,) int64: the superclass 0..8 of each of ImageNet's classes, -1 for none.

    Raises:
        UsageError: no such file, or not the official mapping: 370 classes to nine, 630 to none.
    """
    try:
        content = json.loads(Path(file).read_bytes())
        found = np.array([content[str(i)] for i in range(1000)])
        exact = len(content) == 1000 and found.dtype.kind == "i"
    except FileNotFoundError:
        raise UsageError(
            f"{file}: no such mapping; in_to_in9.json is in github.com/MadryLab/backgrounds_challenge; "
            "give it with --mapping"
        ) from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{file}: not a mapping of the classes 0 to 999 to numbers") from error
    mapped = int((found >= 0).sum()) if exact else 0
    if not exact or mapped != MAPPED or set(found.tolist()) != set(range(-1, CLASSES)):
        raise UsageError(
            f"{file}: maps {mapped} of {len(content)} classes to {len(set(found.tolist()) - {-1})}; the "
            f"official mapping has {MAPPED} of 1000 to {CLASSES}, and {1000 - MAPPED} to none (-1)"
        )
    return found.astype(np.int64)


def read_head(file: str | os.PathLike, encoder: Encoder) -> nn.Linear:
    """The classifier that `evaluate linear` kept. UsageError where it is another network's, or not
    ImageNet's."""
    state = checkpoint.load(Path(file))
    try:
        identity, weight, bias = (
            json.loads(state["identity"]),
            state["model"]["weight"],
            state["model"]["bias"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: not a classifier made by `python -m evaluate linear`") from error
    if identity.get("weights") != encoder.digest:
        raise UsageError(f"{file}: is a classifier on another network's features")
    names = identity.get("classes", [])
    if len(names) != 1000 or not all(re.fullmatch(r"n\d{8}", name) for name in names):
        raise UsageError(
            f"{file}: has {len(names)} classes, not ImageNet's 1000 (n01440764 ...); give --train DIR for "
            "a 9-way probe instead"
        )
    head = nn.Linear(weight.shape[1], len(weight))
    head.load_state_dict({"weight": weight, "bias": bias})
    return head.requires_grad_(False).to(encoder.device)


def own_classes(data: str | os.PathLike) -> list[str] | None:
    """The classes of a set made by `python -m data challenge`; None for the official nine."""
    file = Path(data, "challenge.json")
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_bytes())
        classes = found["classes"] if found["name"] == "dilo-challenge" else []
    except (OSError, ValueError, KeyError, TypeError):
        classes = []
    if (
        not isinstance(classes, list)
        or len(classes) < 2
        or not all(isinstance(name, str) for name in classes)
    ):
        raise UsageError(f"{file}: not what `python -m data challenge` writes; make the set again")
    return classes


def images_of(folder: str, size: int, classes: list[str] | None = None) -> Labelled:
    """Whole images of the nine classes, or of `classes`. UsageError where the folders are
    others."""
    images = Labelled(folder, size, classes, whole_image)
    if classes is not None:
        return images
    if [name[:3] for name in images.classes] != [f"{i:02d}_" for i in range(CLASSES)]:
        raise UsageError(
            f"{folder}: needs the nine class folders 00_dog to 08_fish; it has "
            f"{', '.join(images.classes[:3])} ... ({len(images.classes)})"
        )
    return images


def evaluate(arguments: Arguments) -> dict:
    """Accuracy on every variant that is in DATA, and BG-Gap, by a 1000-way head, a 9-way probe, or
    both.

    Returns:
        the protocol's parameters, `accuracy`: {"head" and/or "probe": {variant: percent, "bg_gap",
        "challenge"}}, `per_class`: {...: {variant: {class: percent}}}, `published`: other models'
        rows, with their sources; means over the seeds' networks, since nothing is drawn here: see
        evaluate.common.repeat.
    """
    return repeat(arguments, _measure, draws=False)


def _measure(args: Arguments, seed: int) -> dict:
    encoder = encoder_of(args, seed)
    present = [v for v in VARIANTS if os.path.isdir(os.path.join(args.data, v, "val"))]
    if not {"mixed_same", "mixed_rand"} <= set(present):
        raise UsageError(
            f"{args.data}: needs at least mixed_same/val and mixed_rand/val, as the official download has"
        )
    classes = own_classes(args.data)
    decide, protocol = _deciders(args, encoder, classes)
    accuracy: dict[str, dict] = {kind: {} for kind in decide}
    per_class: dict[str, dict] = {kind: {} for kind in decide}
    for variant in present:
        images = images_of(os.path.join(args.data, variant, "val"), encoder.size, classes)
        features = extract_from(encoder, images, workers=args.workers)
        protocol[f"{variant}_images"] = len(images)
        for kind, function in decide.items():
            right = function(features) == images.labels
            accuracy[kind][variant] = 100 * float(right.mean())
            per_class[kind][variant] = {
                name: 100 * float(right[images.labels == i].mean())
                for i, name in enumerate(images.classes)
                if (images.labels == i).any()
            }
    for kind, values in accuracy.items():
        values["bg_gap"] = values["mixed_same"] - values["mixed_rand"]
        if args.challenge:
            values["challenge"] = challenge(encoder, decide[kind], args.data, args.workers, classes)
    return args.result(
        protocol,
        accuracy=accuracy,
        per_class=per_class,
        published=in9_table() if classes is None else [],
    )


def _deciders(args: Arguments, encoder: Encoder, classes: list[str] | None) -> tuple[dict, dict]:
    """{"head", "probe": features -> (N,) classes 0..8 or -1}, and the protocol's parameters."""
    decide, protocol = (
        {},
        {"features": "backbone, pooled", "crop": f"whole image, {encoder.size} px"},
    )
    kept = Path(args.head or Path(args.run or "", "linear-seed0.pt"))
    if classes and args.head:
        raise UsageError(
            f"--head maps ImageNet's classes to nine, and {args.data} has its own; give --train alone"
        )
    head = (
        None
        if classes
        else read_head(kept, encoder)
        if args.head or (args.run and kept.exists() and not args.train)
        else encoder.classifier
    )
    if head is not None:
        mapping = read_mapping(args.mapping or _find_mapping(args.data))
        decide["head"] = lambda features: mapping[project(head, features, encoder.device).argmax(1)]
        protocol["head"] = (
            f"1000-way, {MAPPED} classes mapped to {CLASSES}, the others count as wrong"
        )
    if args.train:
        inner = os.path.join(args.train, "train")
        images = images_of(inner if os.path.isdir(inner) else args.train, encoder.size, classes)
        probe = fit_probe(
            np.asarray(extract_from(encoder, images, workers=args.workers), np.float32),
            images.labels,
            len(images.classes),
            args.l2,
        )
        decide["probe"] = lambda features: probe.scores(np.asarray(features, np.float32)).argmax(1)
        protocol |= {
            "probe": f"{len(images.classes)}-way, L-BFGS on standardised features",
            "l2": args.l2,
            "train": args.train,
            "train_images": len(images),
        }
    if not decide and classes:
        raise UsageError(
            f"{args.data}: a set of its own classes needs --train DIR, training images of these classes"
        )
    if not decide:
        raise UsageError(
            "no classifier: give --train DIR (images of the nine classes) for a 9-way probe, or --head "
            "FILE made by `python -m evaluate linear` on ImageNet, or --weights with a 1000-way fc"
        )
    return decide, protocol


def _find_mapping(data: str) -> Path:
    places = [Path(data, "in_to_in9.json"), Path(data).resolve().parent / "in_to_in9.json"]
    return next((place for place in places if place.exists()), places[0])


def lines(result: dict) -> list[str]:
    """The result as it is printed: a table with the published rows below ours."""
    rows = [
        {"model": f"ours, {kind}", "source": "measured", **values}
        for kind, values in result["accuracy"].items()
    ]
    rows += [
        {"model": f"± {kind}, {result['protocol']['seeds']} seeds", "source": "measured", **values}
        for kind, values in result.get("deviation", {}).items()
    ]
    rows += result["published"]
    columns = [c for c in (*VARIANTS, "bg_gap", "challenge") if any(c in row for row in rows)]
    text = [
        f"in9 ({describe(result['protocol'])})",
        f"  {'':<34}" + "".join(f"{c:>11}" for c in columns),
    ]
    for row in rows:
        cells = (f"{row[c]:11.1f}" if c in row else f"{'-':>11}" for c in columns)
        mark = "  second-hand" if "second-hand" in row["source"] else ""
        text.append(f"  {row['model']:<34}" + "".join(cells) + mark)
    return text
