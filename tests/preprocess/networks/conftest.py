"""A network's maps of a batch."""

from collections.abc import Iterable

import numpy as np

from preprocess.networks.base import Network


def in_batch(network: Network, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Each image's map, all in one batch."""
    architecture = network.architecture
    outputs = network.forward(np.stack([architecture.prepare(image) for image in images]))
    return [architecture.finish(output) for output in outputs]
