"""Saliency estimators, one file a method: an RGB image in, a soft foreground map out."""

import importlib

from preprocess.estimators.base import Estimator
from preprocess.networks import base
from preprocess.networks.base import Architecture
from preprocess.networks.weights import find
from preprocess.refine import REFINE, Refined

# name -> module:class; imported on first use, so that a CPU estimator never imports torch
ESTIMATORS = {
    "centre": "preprocess.estimators.centre:Centre",
    "fine_grained": "preprocess.estimators.fine_grained:FineGrained",
    "ft": "preprocess.estimators.ft:FT",
    "fusion": "preprocess.estimators.fusion:Fusion",
    "grabcut": "preprocess.estimators.grabcut:GrabCut",
    "gs": "preprocess.estimators.gs:GS",
    "mbd": "preprocess.estimators.mbd:MBD",
    "mc": "preprocess.estimators.mc:MC",
    "mr": "preprocess.estimators.mr:MR",
    "rbd": "preprocess.estimators.rbd:RBD",
    "sf": "preprocess.estimators.sf:SF",
    "spectral": "preprocess.estimators.spectral:Spectral",
}
# name -> module:class of a preprocess.networks.base.Architecture; `load` takes its weights
NETWORKS = {
    "basnet": "preprocess.estimators.basnet:BASNet",
    "dino": "preprocess.estimators.dino:DINO",
    "onnx": "preprocess.estimators.onnx:ONNX",
    "u2net": "preprocess.estimators.u2net:U2Net",
    "u2netp": "preprocess.estimators.u2net:U2NetP",
}
AUTO = "fusion"  # better than every single method on every metric of ECSSD
REFINEMENTS = ("none", *REFINE)


def create(name: str, **parameters) -> Estimator:
    """The estimator, or the network without its weights, of that name.

    Args:
        name: "auto" (AUTO), or a key of ESTIMATORS or NETWORKS.
        parameters: fields that are not to have their defaults.

    Raises:
        ValueError: no such estimator.
        TypeError: no such parameter.
    """
    path = (ESTIMATORS | NETWORKS).get(AUTO if name == "auto" else name)
    if path is None:
        raise ValueError(
            f"no estimator {name!r}; there are: auto, {', '.join(sorted(ESTIMATORS))}; "
            f"with weights: {', '.join(sorted(NETWORKS))}"
        )
    module, method = path.split(":")
    return getattr(importlib.import_module(module), method)(**parameters)


def load(
    name: str,
    refine: str = "none",
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    **parameters,
) -> Estimator:
    """The estimator `name` (see `create`), ready to compute.

    Args:
        refine: one of REFINEMENTS, applied to the map; one of the estimator's parameters where it
            is not "none".
        weights: of a network: file, or folder with it; None looks where
            preprocess.networks.weights.find does.
        device: of a network: "cpu" or "cuda".
        precision: of a network: "fp32" or "bf16".

    Raises:
        ValueError: no such estimator or refinement.
        TypeError: no such parameter.
        UsageError: weights (a ValueError too) that are not there or do not fit.
    """
    if refine not in REFINEMENTS:
        raise ValueError(f"no refinement {refine!r}; there are: {', '.join(REFINEMENTS)}")
    method = create(name, **parameters)
    if isinstance(method, Architecture):
        method = base.load(method, weights, device, precision)
    elif (weights, device, precision) != (None, "cpu", "fp32"):
        raise ValueError(
            f"estimator {name} is no network: it takes no weights, device or precision; these do: "
            f"{', '.join(sorted(NETWORKS))}"
        )
    return method if refine == "none" else Refined(method, refine)


def has_weights(name: str) -> bool:
    """Whether network `name` finds a file under one of its names where it looks by itself.

    $DILO_WEIGHTS may be a file of any name: it is one network's, and so not taken for every
    other's.
    """
    source = create(name).source
    try:
        return find(name, source).name in source.files
    except ValueError:
        return False
