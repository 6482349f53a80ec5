"""The base class of saliency estimators."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from data.resize import resize


@dataclass(frozen=True)
class Estimator:
    """A saliency method: its fields are its parameters, JSON-able, each with a default.

    A subclass sets `name` and gives `working`, which must be deterministic: a mask cache's identity
    is `name`, `version`, `parameters`, `weights` and the device, and stands for every byte of its
    masks.

    Attributes:
        name: the key in preprocess.estimators.ESTIMATORS or NETWORKS.
        version: raised whenever the maps change.
        weights: SHA-256 of a network's file of weights, hex; None for a method without.
        single: whether its file takes one image at a time.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    weights: ClassVar[str | None] = None
    single: ClassVar[bool] = False

    @property
    def parameters(self) -> dict:
        """What a cache's identity stores of the fields, as JSON has it."""
        fields = asdict(self).items()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields}

    def working(self, image: np.ndarray) -> np.ndarray:
        """The map at the method's own working size.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            float32 (h, w) in [0, 1] of the whole image, so that relative coordinates agree.
        """
        raise NotImplementedError

    def map_of(self, image: np.ndarray, path: bytes, content: bytes) -> np.ndarray:
        """`working` of the image of a path (relative, as the cache has it) and a file."""
        return self.working(image)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The map at the image's size, float32 (H, W) in [0, 1]."""
        return resize(self.working(image), image.shape[1], image.shape[0])
