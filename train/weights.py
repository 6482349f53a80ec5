"""Third-party ResNet weights in torchvision's keys: a file is recognised by its keys and shapes,
never by its name.

MoCo's `.pth.tar`, torchvision's, timm's and Hugging Face's files, DINO's, lightly's numbered
layers, a plain state dict, `.safetensors`, or a run of `python -m train`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from data.cli import UsageError, note
from data.tensors import SHOWN, fitting, is_plain, load_tensors
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
CLASSES = 1000  # of ImageNet: an `fc` of so many outputs is a classifier, else a projection head
DEPTH = 4  # dictionaries in dictionaries that are looked through
NO_HEAD = "is not one of linear layers and norms"
# copies of the encoder that are not the one to evaluate; DINO's teacher is
COPY = re.compile(r"(^|_)(k|key|momentum|target|student|ema)(_|$)")
CHOSEN = re.compile(r"(^|_)teacher(_|$)")
# names of transformers' ResNetModel -> torchvision's; its numbers begin at 0
HUGGING_FACE = {
    r"embedder\.embedder\.convolution": "conv1",
    r"embedder\.embedder\.normalization": "bn1",
    r"encoder\.stages\.(\d+)\.layers": lambda m: f"layer{int(m[1]) + 1}",
    r"\blayer\.(\d)\.convolution": lambda m: f"conv{int(m[1]) + 1}",
    r"\blayer\.(\d)\.normalization": lambda m: f"bn{int(m[1]) + 1}",
    r"shortcut\.convolution": "downsample.0",
    r"shortcut\.normalization": "downsample.1",
    r"^classifier\.1\.": "resnet.fc.",
}

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
        chosen_stem: the stem that was asked for, where it is not what the shapes are taken for.
    """

    network: str
    stem: str
    width: int
    state: State
    fc: State = field(default_factory=dict)
    origin: str = ""
    size: int = 224
    seed: int = 0
    chosen_stem: str = ""

    def build(self, untrained: bool = False, seed: int = 0) -> nn.Module:
        """The network with these weights, or its random first ones; fc is the identity: it gives
        pooled features.

        Args:
            seed: untrained: 0 gives the weights that the run began with, others other ones.
        """
        torch.manual_seed(self.seed + seed)
        model = self.empty()
        if not untrained:
            model.load_state_dict(self.state)
        return model

    def empty(self, device: str = "cpu") -> nn.Module:
        """The network with random weights, or on "meta" without any."""
        with torch.device(device):
            model = backbone(self.network, self.stem, self.width)
        model.fc = nn.Identity()
        return model

    def digest(self) -> str:
        """16 hex digits of all weights: two files of the same network have the same."""
        hashed = hashlib.blake2b(self.chosen_stem.encode(), digest_size=8)
        for key in sorted(self.state):
            hashed.update(key.encode())
            hashed.update(self.state[key].contiguous().numpy().tobytes())
        return hashed.hexdigest()

    @property
    def classifier(self) -> nn.Linear | None:
        """The classifier of ImageNet's 1000 classes, where the file has one."""
        layer = self._fc
        return layer if isinstance(layer, nn.Linear) and layer.out_features == CLASSES else None

    @property
    def head(self) -> nn.Module | None:
        """The projection head of the pretraining, where the file has one."""
        return None if self.classifier is not None else self._fc

    @cached_property
    def _fc(self) -> nn.Module | None:
        try:
            return make_head(self.fc) if self.fc else None
        except UsageError as error:
            note(f"{self.origin}: {error}; it is left out")
            return None


def load_source(run: str | None, weights: str | None, stem: str | None = None) -> Weights:
    """The weights of a run folder or of a file, as load_weights; UsageError where not one of the
    two is given."""
    if (run is None) == (weights is None):
        raise UsageError("give either --run RUN or --weights FILE")
    return load_run_weights(run) if weights is None else load_weights(weights, stem)


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
    content = load_tensors(path)
    parts = list(_encoders(content))
    if not parts:
        raise UsageError(
            f"{path}: no ResNet in it (no layer1.0.conv1.weight under any name); "
            f"{_inventory(content)}"
        )
    best = min(_rank(name) for name, _, _ in parts)
    parts = [part for part in parts if _rank(part[0]) == best]
    if len(parts) > 1:
        names = ", ".join(name for name, _, _ in parts[:SHOWN])
        raise UsageError(f"{path}: holds several ResNets ({names}); save the one to evaluate alone")
    return _fit(str(path), *parts[0], stem)


def load_run_weights(folder: str | os.PathLike) -> Weights:
    """The backbone of a finished run of `python -m train`, and its head."""
    config, state = checkpoint.load_run(folder)
    weights = Weights(
        config["network"],
        config["stem"],
        config["width"],
        state,
        run_head(Path(folder)),
        str(folder),
        config["size"],
        config["seed"],
    )
    what = f"{folder}: its weights do not fit its network"
    return replace(weights, state=fitting(state, weights.empty("meta").state_dict(), what))


def run_head(folder: Path) -> State:
    """The projection head of a run; empty where it cannot be read, which is said."""
    try:
        head = checkpoint.load(folder / checkpoint.HEAD)
    except UsageError as error:
        note(f"{error}; its head is missing, the backbone is evaluated")
        return {}
    return {key.removeprefix("fc."): value for key, value in head.items()}


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
    if list(layers) == [""]:
        return _layer(layers[""])
    if not all(place.isdigit() for place in layers):
        raise UsageError(f"a head of layers {', '.join(sorted(layers)[:SHOWN])} {NO_HEAD}")
    last = max(int(place) for place in layers)
    if last > 16:
        raise UsageError(f"a head of {last + 1} layers {NO_HEAD}")
    modules = [_layer(layers[str(i)]) if str(i) in layers else nn.ReLU() for i in range(last + 1)]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _layer(state: State) -> nn.Module:
    weight = state.get("weight")
    if weight is not None and weight.ndim == 2:
        layer: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in state)
    elif "running_mean" in state and state["running_mean"].ndim == 1:
        layer = nn.BatchNorm1d(len(state["running_mean"]), affine=weight is not None)
    else:
        raise UsageError(f"a head with {', '.join(sorted(state)[:SHOWN])} {NO_HEAD}")
    what = "a head whose tensors do not fit together"
    layer.load_state_dict(fitting(state, layer.state_dict(), what))
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
    for place, values in _dictionaries(content):
        tensors = {k: v for k, v in values.items() if isinstance(k, str) and is_plain(v)}
        if any("embedder.embedder.convolution" in key for key in tensors):
            tensors = {_from_hugging_face(key): value for key, value in tensors.items()}
        for key in tensors:
            # lightly and torch's own Sequential number the layers: 0 conv1, 1 bn1, then the stages
            match = re.fullmatch(r"(.*\.)?(layer1|\d+)\.0\.conv1\.weight", key)
            if match is None:
                continue
            prefix = match[1] or ""
            below = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if match[2] != "layer1":
                names = _numbered_layers(below)
                if names.get(match[2]) != "layer1":
                    continue  # a later stage of the same network
                below = {_renamed(k, names): v for k, v in below.items()}
            fc = {k.removeprefix("fc."): v.float() for k, v in below.items() if k.startswith("fc.")}
            state = {k: v for k, v in below.items() if re.match(r"(conv1|bn1|layer\d+)\.", k)}
            yield f"{place}{prefix}", state, fc


def _from_hugging_face(key: str) -> str:
    for pattern, name in HUGGING_FACE.items():
        key = re.sub(pattern, name, key)
    return key


def _numbered_layers(state: State) -> dict[str, str]:
    """Number of a layer -> its name, where a network is a Sequential."""
    matches = (re.match(r"(\d+)\.0\.conv1\.weight$", key) for key in state)
    stages = sorted({int(match[1]) for match in matches if match})
    stage_names = {str(number): f"layer{i}" for i, number in enumerate(stages, 1)}
    return {"0": "conv1", "1": "bn1"} | stage_names


def _renamed(key: str, names: dict[str, str]) -> str:
    first, dot, rest = key.partition(".")
    return names.get(first, first) + dot + rest


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
    which = name or "its network"
    if network is None:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise UsageError(
            f"{path}: {which} has stages of {blocks} {kind}; known are ResNet-18, 34, 50, 101, 152 "
            "and this project's resnet10"
        )
    first = state.get("conv1.weight")
    if first is None or first.ndim != 4:
        first = torch.empty(64, 3, 7, 7)  # what is wrong with it is said below
    large = tuple(first.shape[2:]) == (7, 7)
    if large and stem not in (None, "imagenet"):
        raise UsageError(f"{path}: its first layer is 7x7; --stem {stem} does not fit")
    stem = "imagenet" if large else stem or "small"
    width = len(first) if network == "resnet10" else 64
    origin = f"{path}, {name}" if name else path
    weights = Weights(network, stem, width, {}, fc, origin, 224 if large else 32)
    what = f"{path}: {which} looks like {network} but does not fit"
    state = fitting(state, weights.empty("meta").state_dict(), what)
    state = {k: v if k.endswith("num_batches_tracked") else v.float() for k, v in state.items()}
    return replace(weights, state=state, chosen_stem=stem if stem == "small_stride2" else "")


def _inventory(content: object) -> str:
    names = [
        f"{place}{key}"
        for place, values in _dictionaries(content)
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    ]
    return f"it has {len(names)} tensors" + (f": {', '.join(names[:SHOWN])} ..." if names else "")
