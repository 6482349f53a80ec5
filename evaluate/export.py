"""Write a backbone for other tools.

    python -m evaluate export --to torchvision --run RUN --out resnet50.pth
    python -m evaluate export --to timm        --run RUN --out resnet50.safetensors
    python -m evaluate export --to detectron2  --weights moco_v2_200ep.pth.tar --out resnet50.d2.pth

torchvision: `resnet50().load_state_dict(torch.load(FILE, weights_only=True), strict=False)` misses
`fc` alone, or nothing where the file has a classifier of 1000 classes. timm:
`timm.create_model("resnet50", num_classes=0, checkpoint_path=FILE)` loads strictly
(num_classes=1000 with a classifier). detectron2: `MODEL.WEIGHTS FILE`: its DetectionCheckpointer
reads a .pth by torch.load and matches names by their ends, in C4 and in FPN models. Every file
holds tensors and plain values alone, so that it loads with weights_only=True.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.cli import UsageError
from data.io import write_bytes
from data.tensors import write_tensors
from evaluate.common import refuse_output
from train.weights import State, Weights, load_source

NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# how detectron2 must be told to build the network that the weights are of (its own default suits
# caffe's weights)
DETECTRON2 = {
    "MODEL.RESNETS.DEPTH": None,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
# torchvision's names -> detectron2's
NAMES = {
    r"^(conv1|bn1)\.": r"stem.\1.",
    r"^layer(\d)\.": lambda m: f"res{int(m[1]) + 1}.",
    r"\bbn(\d)\.": r"conv\1.norm.",
    r"downsample\.0\.": "shortcut.",
    r"downsample\.1\.": "shortcut.norm.",
}


@dataclass(frozen=True)
class Arguments:
    """Options of the export."""

    to: Literal["torchvision", "timm", "detectron2"]
    """Whose names and file format."""
    out: str
    """File to write: .pth (torchvision, detectron2), .pth or .safetensors (timm)."""
    run: str | None = None
    """Run folder made by `python -m train`; or give --weights."""
    weights: str | None = None
    """Third-party ResNet weights instead of a run; see `python -m evaluate linear --help`."""


def torchvision_state(weights: Weights) -> State:
    """Torchvision's names, and timm's, which are the same; fc too where it is a classifier of
    ImageNet's classes."""
    layer = weights.classifier
    fc = layer.state_dict(prefix="fc.") if layer else {}
    return {key: value.contiguous() for key, value in (weights.state | fc).items()}


def detectron2_state(weights: Weights) -> State:
    """Detectron2's names (detectron2/modeling/backbone/resnet.py): stem, res2 to res5, a norm
    inside its convolution.

    Counts of batches are left out: detectron2's frozen norms have none.
    """
    state = {}
    for key, value in weights.state.items():
        if not key.endswith("num_batches_tracked"):
            for pattern, name in NAMES.items():
                key = re.sub(pattern, name, key)
            state[key] = value
    return state


def evaluate(arguments: Arguments) -> dict:
    """Write the file.

    Returns:
        {"to", "out", "network", "origin", "tensors", "classifier": bool, "settings": what the other
        tool must be told}.

    Raises:
        UsageError: options that do not fit together, weights that cannot be read, or a network that
            the tool has not.
    """
    to, path = arguments.to, Path(arguments.out)
    suffixes = (".pth", ".safetensors") if to == "timm" else (".pth",)
    if path.suffix not in suffixes:
        raise UsageError(f"--out {path}: {to} reads {' or '.join(suffixes)}")
    refuse_output(path, filter(None, [arguments.weights]))
    weights = load_source(arguments.run, arguments.weights)
    if weights.network not in NETWORKS or weights.stem != "imagenet":
        raise UsageError(
            f"{weights.origin}: {weights.network} with the first layer for {weights.stem} images; "
            f"{to} has only ResNet-18, 34, 50, 101 and 152 with a 7x7 one"
        )
    settings = {}
    state = torchvision_state(weights)
    content = state
    if to == "detectron2":
        settings = DETECTRON2 | {"MODEL.RESNETS.DEPTH": int(weights.network.removeprefix("resnet"))}
        state = detectron2_state(weights)
        # without __author__ "Caffe2" nothing is renamed or reordered from BGR
        content = {"model": state, "__author__": "dilo", "matching_heuristics": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        write_bytes(path, save(state, {"format": "pt"}))
    else:
        write_tensors(path, content)
    return {
        "to": to,
        "out": str(path),
        "network": weights.network,
        "origin": weights.origin,
        "tensors": len(state),
        "classifier": "fc.weight" in state,
        "settings": settings,
    }


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    classifier = " with its classifier" if result["classifier"] else ""
    return [
        f"{result['origin']}: {result['network']}, {result['tensors']} tensors{classifier}, "
        f"written to {result['out']} for {result['to']}",
        *(f"  {key} {value}" for key, value in result["settings"].items()),
    ]
