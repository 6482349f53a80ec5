"""Saliency estimators, one file a method: an RGB image in, a soft foreground map out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from data.resize import resize

# name -> module; imported on first use, so that a CPU estimator never imports torch nor another's
# libraries
ESTIMATORS = {
    "centre": "preprocess.estimators.centre",
    "fine_grained": "preprocess.estimators.fine_grained",
    "ft": "preprocess.estimators.ft",
    "fusion": "preprocess.estimators.fusion",
    "grabcut": "preprocess.estimators.grabcut",
    "gs": "preprocess.estimators.gs",
    "mbd": "preprocess.estimators.mbd",
    "mc": "preprocess.estimators.mc",
    "mr": "preprocess.estimators.mr",
    "rbd": "preprocess.estimators.rbd",
    "sf": "preprocess.estimators.sf",
    "spectral": "preprocess.estimators.spectral",
}
# name -> module of a network with weights: preprocess.networks says what it must have; `load` takes
# its weights
NETWORKS = {
    "basnet": "preprocess.estimators.basnet",
    "dino": "preprocess.estimators.dino",
    "u2net": "preprocess.estimators.u2net",
    "u2netp": "preprocess.estimators.u2netp",
}
AUTO = "fusion"  # better than every single method on every metric of ECSSD, at 20 ms an image
REFINEMENTS = ("none", "guided", "grabcut")  # preprocess.refine
REFINED_SIDE = 256  # px, longest side of the image that a refinement of a network's map sees


@dataclass(frozen=True)
class Estimator:
    """A saliency method with its parameters: what a mask cache's identity stores.

    Attributes:
        name: key of ESTIMATORS or NETWORKS.
        version: implementation version; raised whenever the maps change.
        parameters: JSON-able parameters of `function`.
        function: (H, W, 3) uint8 RGB -> float32 (h, w) in [0, 1]; (h, w) may be a smaller working
            size, but always covers the whole image, so that relative coordinates agree.
            Deterministic.
        weights: SHA-256 of a network's file of weights, hex; None for a method without.
        device: kind of device that computes.
    """

    name: str
    version: int
    parameters: dict = field(default_factory=dict)
    function: Callable[..., np.ndarray] = field(default=None, repr=False, compare=False)
    weights: str | None = None
    device: str = "cpu"

    def working(self, image: np.ndarray) -> np.ndarray:
        """The map at the method's own working size, float32 (h, w) in [0, 1]."""
        return self.function(image, **self.parameters)

    def batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`working` of each image; a network takes them all at once. No map depends on the other
        images."""
        return [self.working(image) for image in images]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The map at the image's size, float32 (H, W) in [0, 1]."""
        return resize(self.working(image), image.shape[1], image.shape[0])


def weights_of(name: str):
    """The preprocess.networks.weights.Source of network `name`."""
    return importlib.import_module(NETWORKS[name]).WEIGHTS


def has_weights(name: str) -> bool:
    """Whether network `name` finds a file under one of its names where it looks by itself (see
    `load`).

    $DILO_WEIGHTS may be a file of any name: it is one network's, and so not taken for every
    other's.
    """
    from preprocess.networks.weights import find

    source = weights_of(name)
    try:
        path = find(name, source)
    except ValueError:
        return False
    return path.name in source.files or str(path) == source.bundled


def load(
    name: str,
    refine: str = "none",
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    **parameters,
) -> Estimator:
    """The estimator `name` ("auto" resolves to AUTO) with its defaults overridden by `parameters`.

    Each module has VERSION (int), PARAMETERS (dict of defaults) and `saliency(image,
    **parameters)`; those of NETWORKS have what preprocess.networks says.

    Args:
        refine: one of REFINEMENTS, applied to the map; where it is not "none" it is one of the
            estimator's parameters.
        weights: of a network: file, or folder with it; None looks where
            preprocess.networks.weights.find does.
        device: of a network: "cpu" or "cuda".  precision: of a network: "fp32" or "bf16".

    Raises:
        ValueError: no such estimator, refinement or parameter; weights (a UsageError) that are not
            there or do not fit.
    """
    name = AUTO if name == "auto" else name
    if name not in ESTIMATORS and name not in NETWORKS:
        raise ValueError(
            f"no estimator {name!r}; there are: auto, {', '.join(sorted(ESTIMATORS))}; with weights: "
            f"{', '.join(sorted(NETWORKS))}"
        )
    if refine not in REFINEMENTS:
        raise ValueError(f"no refinement {refine!r}; there are: {', '.join(REFINEMENTS)}")
    module = importlib.import_module(ESTIMATORS.get(name) or NETWORKS[name])
    unknown = sorted(set(parameters) - set(module.PARAMETERS))
    if unknown:
        raise ValueError(
            f"estimator {name} has no parameter {', '.join(unknown)}; it has: "
            f"{', '.join(module.PARAMETERS) or 'none'}"
        )
    parameters = {**module.PARAMETERS, **parameters}
    if name in NETWORKS:
        inference = importlib.import_module("preprocess.networks.inference")
        return inference.load(name, module, parameters, refine, weights, device, precision)
    if weights is not None or device != "cpu" or precision != "fp32":
        raise ValueError(
            f"estimator {name} is no network: it takes no weights, device or precision; these do: "
            f"{', '.join(sorted(NETWORKS))}"
        )
    if (
        refine == "none"
    ):  # absent from the parameters then, so that the option left alone changes no cache's identity
        return Estimator(name, module.VERSION, parameters, module.saliency)
    refined = importlib.import_module("preprocess.refine").refined
    return Estimator(
        name, module.VERSION, {**parameters, "refine": refine}, partial(refined, module.saliency)
    )
