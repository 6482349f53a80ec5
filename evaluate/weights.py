"""Anybody's ResNet weights in torchvision's keys: a file is recognised by its keys and shapes,
never by its name.

MoCo's `.pth.tar`, torchvision's and timm's files, DINO's, lightly's numbered layers, a plain state
dict, `.safetensors`, or a run of `python -m train`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from data.cli import UsageError
from data.tensors import SHOWN, misfit, read_tensors
from train import checkpoint
from train.network import backbone

# (blocks a stage, bottleneck) -> network
NETWORKS = {
    ((1, 1, 1, 1), False): "resnet10",
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
CLASSES = (
    1000  # of ImageNet: an `fc` of so many outputs is a classifier, any other is a projection head
)
DEPTH = 4  # dictionaries in dictionaries that are looked through
# copies of the encoder that are not the one to evaluate; DINO's teacher is
COPY = re.compile(r"(^|_)(k|key|momentum|target|student|ema)(_|$)")
CHOSEN = re.compile(r"(^|_)teacher(_|$)")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A ResNet's weights, float32 on the CPU.

    Attributes:
        network: resnet10, 18, 34, 50, 101 or 152.  stem: as train.network.backbone's.  width: of
            the first stage.
        state: torchvision's keys, without fc.
        fc: what the file has in fc's place, keys below it ("weight", "0.bias" ...); empty where it
            has none.
        origin: which part of which file this is, for people.
        size: side of the images that it was trained on, in pixels.
        seed: of the weights that a run began with.
    """

    network: str
    stem: str
    width: int
    state: State
    fc: State = field(default_factory=dict)
    origin: str = ""
    size: int = 224
    seed: int = 0

    def build(self, untrained: bool = False, seed: int = 0) -> nn.Module:
        """The network with these weights, or its random first ones; fc is the identity: it gives
        pooled features.

        Args:
            seed: untrained: 0 gives the weights that the run began with, others other ones.
        """
        torch.manual_seed(self.seed + seed)
        model = _empty(self.network, self.stem, self.width)
        if not untrained:
            model.load_state_dict(self.state)
        return model

    def digest(self) -> str:
        """16 hex digits of all weights: two files of the same network have the same."""
        hashed = hashlib.blake2b(digest_size=8)
        for key in sorted(self.state):
            hashed.update(key.encode())
            hashed.update(self.state[key].contiguous().numpy().tobytes())
        return hashed.hexdigest()

    @property
    def classifier(self) -> nn.Linear | None:
        """The classifier of ImageNet's 1000 classes, where the file has one."""
        layer = self._fc()
        return layer if isinstance(layer, nn.Linear) and layer.out_features == CLASSES else None

    @property
    def head(self) -> nn.Module | None:
        """The projection head of the pretraining, where the file has one."""
        return None if self.classifier is not None else self._fc()

    def _fc(self) -> nn.Module | None:
        return make_head(self.fc) if self.fc else None


def load_weights(path: str | os.PathLike, stem: str | None = None) -> Weights:
    """A ResNet's weights from a file or from a run folder.

    Args:
        stem: of a network whose first layer is 3x3: shapes do not tell "small" (the default) from
            "small_stride2".

    Raises:
        UsageError: no such file, one that cannot be loaded without running its code, no ResNet in
            it, several, or one whose tensors do not fit (with what is missing and what is too
            much).
    """
    path = Path(path)
    if path.is_dir():
        return load_run_weights(path)
    parts = list(_encoders(read(path)))
    if not parts:
        raise UsageError(
            f"{path}: no ResNet in it (no layer1.0.conv1.weight under any name); {_inventory(read(path))}"
        )
    best = min(_rank(name) for name, _, _ in parts)
    parts = [part for part in parts if _rank(part[0]) == best]
    if len(parts) > 1:
        raise UsageError(
            f"{path}: holds several ResNets ({', '.join(name for name, _, _ in parts[:SHOWN])}); save the "
            "one to evaluate by itself"
        )
    name, state, fc = parts[0]
    return _fit(str(path), name, state, fc, stem)


def load_run_weights(folder: str | os.PathLike) -> Weights:
    """The backbone of a finished run of `python -m train`, and its head where a checkpoint still
    has it."""
    config, state = checkpoint.load_run(folder)
    found = Weights(
        config["network"],
        config["stem"],
        config["width"],
        state,
        run_head(Path(folder)),
        f"{folder}",
        config["size"],
        config["seed"],
    )
    try:
        found.build()
    except RuntimeError as error:
        raise UsageError(f"{folder}: its weights do not fit its network: {error}") from error
    return found


def run_head(folder: Path) -> State:
    """The projection head of a run, from its newest full checkpoint; empty where none was kept."""
    parts = [part for part in _encoders(checkpoint.newest(folder) or {}) if part[2]]
    return min(parts, key=lambda part: _rank(part[0]))[2] if parts else {}


def read(path: Path) -> object:
    """What a file of tensors holds; its code is never run. UsageError, one line, where that cannot
    be."""
    return read_tensors(path)[0]


def make_head(fc: State) -> nn.Module:
    """The layers of a head from its state: linear ones and BatchNorms, and a ReLU wherever a number
    has no tensors.

    Raises:
        UsageError: tensors that are neither.
    """
    layers: dict[str, State] = {}
    for key, value in fc.items():
        place, _, name = key.rpartition(".")
        layers.setdefault(place, {})[name] = value
    if any(place and not place.isdigit() for place in layers) or ("" in layers and len(layers) > 1):
        raise UsageError(
            f"a head of layers {', '.join(sorted(layers)[:SHOWN])} is not one of linear layers and norms"
        )
    last = max(int(place or 0) for place in layers)
    if last > 16:
        raise UsageError(f"a head of {last + 1} layers is not one of linear layers and norms")
    modules = (
        [_layer(layers[str(i)]) if str(i) in layers else nn.ReLU() for i in range(last + 1)]
        if "" not in layers
        else [_layer(layers[""])]
    )
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _layer(state: State) -> nn.Module:
    weight = state.get("weight")
    if weight is not None and weight.ndim == 2:
        layer: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in state)
    elif "running_mean" in state and state["running_mean"].ndim == 1:
        layer = nn.BatchNorm1d(len(state["running_mean"]), affine=weight is not None)
        state = {"num_batches_tracked": torch.zeros((), dtype=torch.long), **state}
    else:
        raise UsageError(
            f"a head with {', '.join(sorted(state)[:SHOWN])} is not one of linear layers and norms"
        )
    try:
        layer.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"a head whose tensors do not fit together: {error}") from error
    return layer.requires_grad_(False).eval()


def _dictionaries(
    content: object, name: str = "", depth: int = DEPTH
) -> Iterator[tuple[str, dict]]:
    """Every dictionary in a checkpoint, with its place."""
    if isinstance(content, dict):
        yield name, content
        if depth:
            for key, value in content.items():
                if isinstance(value, dict):
                    yield from _dictionaries(value, f"{name}{key}/", depth - 1)


def _encoders(content: object) -> Iterator[tuple[str, State, State]]:
    """Every ResNet in a checkpoint: (place and prefix, its tensors without fc, fc's tensors)."""
    for place, found in _dictionaries(content):
        tensors = {
            k: v
            for k, v in found.items()
            if isinstance(k, str)
            and isinstance(v, torch.Tensor)
            and v.layout == torch.strided
            and not v.is_quantized
            and not v.is_complex()
        }
        for key in tensors:
            # lightly and torch's own Sequential number the layers: 0 conv1, 1 bn1, then the stages
            match = re.fullmatch(r"(.*?)(layer1|\d+)\.0\.conv1\.weight", key)
            if match is None or (match[1] and not match[1].endswith(".")):
                continue
            prefix = match[1]
            below = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if match[2] != "layer1":
                stages = sorted(
                    {int(m[1]) for k in below if (m := re.match(r"(\d+)\.0\.conv1\.weight$", k))}
                )
                if stages[0] != int(match[2]):
                    continue  # a later stage of the same network
                names = {"0": "conv1", "1": "bn1"} | {
                    str(s): f"layer{i}" for i, s in enumerate(stages, 1)
                }
                below = {
                    ".".join([names.get(k.split(".")[0], k.split(".")[0]), *k.split(".")[1:]]): v
                    for k, v in below.items()
                }
            fc = {k.removeprefix("fc."): v.float() for k, v in below.items() if k.startswith("fc.")}
            state = {k: v for k, v in below.items() if re.match(r"(conv1|bn1|layer\d+)\.", k)}
            yield f"{place}{prefix}", state, fc


def _rank(name: str) -> int:
    """Lower is preferred."""
    tokens = re.split(r"[./]", name)
    return any(COPY.search(t) for t in tokens) - any(CHOSEN.search(t) for t in tokens)


def _fit(path: str, name: str, state: State, fc: State, stem: str | None) -> Weights:
    """Infer the network from keys and shapes and check every tensor against it."""
    blocks = tuple(
        len({k.split(".")[1] for k in state if k.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in state
    network = NETWORKS.get((blocks, bottleneck))
    kind = "bottlenecks" if bottleneck else "basic blocks"
    if network is None:
        raise UsageError(
            f"{path}: {name or 'its network'} has stages of {blocks} {kind}; known are ResNet-18, 34, 50, "
            "101, 152 and this project's resnet10"
        )
    first = state.get("conv1.weight", torch.empty(0))
    first = (
        first if first.ndim == 4 else torch.empty(64, 3, 7, 7)
    )  # what is wrong with it is said below
    large = tuple(first.shape[2:]) == (7, 7)
    if large and stem not in (None, "imagenet"):
        raise UsageError(f"{path}: its first layer is 7x7; --stem {stem} does not fit")
    stem = "imagenet" if large else stem or "small"
    width = len(first) if network == "resnet10" else 64
    wanted = _empty(network, stem, width, "meta").state_dict()
    state = {
        **{
            k: torch.zeros((), dtype=torch.long)
            for k in wanted
            if k.endswith("num_batches_tracked")
        },
        **state,
    }  # files of before torch 0.4 have none
    wrong = misfit(state, wanted)
    if wrong:
        raise UsageError(
            f"{path}: {name or 'its network'} looks like {network} but does not fit; {wrong}"
        )
    state = {k: v if k.endswith("num_batches_tracked") else v.float() for k, v in state.items()}
    broken = [k for k, v in state.items() if not torch.isfinite(v).all()]
    if broken:
        raise UsageError(
            f"{path}: {len(broken)} tensors are not finite ({', '.join(broken[:SHOWN])})"
        )
    origin = f"{path}{', ' + name if name else ''}"
    return Weights(network, stem, width, state, fc, origin, 224 if large else 32)


def _empty(network: str, stem: str, width: int, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        model = backbone(network, stem, width)
    model.fc = nn.Identity()
    return model


def _inventory(content: object) -> str:
    names = [
        f"{place}{key}"
        for place, found in _dictionaries(content)
        for key, value in found.items()
        if isinstance(value, torch.Tensor)
    ]
    return f"it has {len(names)} tensors" + (f": {', '.join(names[:SHOWN])} ..." if names else "")
