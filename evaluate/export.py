"""Write a backbone for other tools.

    python -m evaluate export --to torchvision --run RUN --out resnet50.pth
    python -m evaluate export --to timm        --run RUN --out resnet50.safetensors
    python -m evaluate export --to detectron2  --weights moco_v2_200ep.pth.tar --out resnet50.d2.pth

torchvision: `resnet50().load_state_dict(torch.load(FILE, weights_only=True), strict=False)` misses
`fc` alone, or nothing where the file has a classifier of 1000 classes. timm:
`timm.create_model("resnet50", num_classes=0, checkpoint_path=FILE)` loads strictly
(num_classes=1000 with a classifier). detectron2: `MODEL.WEIGHTS FILE`: its DetectionCheckpointer
reads a .pth by torch.load and matches names by their ends, in C4 and in FPN models. No file holds
anything but tensors and plain values, so each loads with weights_only=True.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from data.cli import UsageError
from data.io import write_bytes
from evaluate.weights import Weights, load_run_weights, load_weights
from train import checkpoint

State = dict[str, torch.Tensor]
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
    """Anybody's ResNet weights instead of a run; see `python -m evaluate linear --help`."""


def torchvision_state(weights: Weights) -> State:
    """Torchvision's names, and timm's, which are the same; fc too where it is a classifier of
    ImageNet's classes."""
    classifier = weights.classifier
    return weights.state | (
        {}
        if classifier is None
        else {f"fc.{k}": v.detach() for k, v in classifier.state_dict().items()}
    )


def detectron2_state(weights: Weights) -> State:
    """Detectron2's names (detectron2/modeling/backbone/resnet.py): stem, res2 to res5, a norm
    inside its convolution.

    Counts of batches are left out: detectron2's frozen norms have none.
    """
    found = {}
    for key, value in weights.state.items():
        if key.endswith("num_batches_tracked"):
            continue
        stage, _, rest = key.partition(".")
        if stage in ("conv1", "bn1"):
            place, rest = "stem", key
        else:
            block, _, rest = rest.partition(".")
            place = f"res{int(stage.removeprefix('layer')) + 1}.{block}"
        rest = re.sub(r"^bn(\d)\.", r"conv\1.norm.", rest)
        rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        found[f"{place}.{rest}"] = value
    return found


def run(to: str, out: str, run: str | None = None, weights: str | None = None) -> dict:
    """Write the file. Options are those of Arguments.

    Returns:
        {"to", "out", "network", "origin", "tensors", "classifier": bool, "settings": what the other
        tool must be told}.

    Raises:
        UsageError: options that do not fit together, weights that cannot be read, or a network that
            the tool has not.
    """
    if (run is None) == (weights is None):
        raise UsageError("give either --run RUN or --weights FILE")
    path = Path(out)
    suffixes = (".pth", ".safetensors") if to == "timm" else (".pth",)
    if path.suffix not in suffixes:
        raise UsageError(f"--out {out}: {to} reads {' or '.join(suffixes)}")
    found = load_run_weights(run) if run is not None else load_weights(weights or "")
    if found.network not in NETWORKS or found.stem != "imagenet":
        raise UsageError(
            f"{found.origin}: {found.network} with the first layer for {found.stem} images; {to} has only "
            "ResNet-18, 34, 50, 101 and 152 with a 7x7 one"
        )
    settings = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    if to == "detectron2":
        state = detectron2_state(found)
        settings = DETECTRON2 | {"MODEL.RESNETS.DEPTH": int(found.network.removeprefix("resnet"))}
        # without __author__ "Caffe2" nothing is renamed or reordered from BGR
        checkpoint.save(path, {"model": state, "__author__": "dilo", "matching_heuristics": True})
    else:
        state = {key: value.contiguous() for key, value in torchvision_state(found).items()}
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            write_bytes(path, save(state, {"format": "pt"}))
        else:
            checkpoint.save(path, state)
    return {
        "to": to,
        "out": str(path),
        "network": found.network,
        "origin": found.origin,
        "tensors": len(state),
        "classifier": "fc.weight" in state,
        "settings": settings,
    }


def main(argv: list[str]) -> None:
    args = tyro.cli(Arguments, args=argv, prog="python -m evaluate export", description=__doc__)
    result = run(**vars(args))
    print(
        f"{result['origin']}: {result['network']}, {result['tensors']} tensors"
        f"{' with its classifier' if result['classifier'] else ''}, written to {result['out']} for {result['to']}"
    )
    for key, value in result["settings"].items():
        print(f"  {key} {value}")
