"""What the estimators on the graph of superpixels share."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.regions import Regions, regions


@dataclass(frozen=True)
class Regional(Estimator):
    """An estimator that gives each superpixel a value; a subclass sets `name` and gives `solve`.

    Args:
        superpixels: wanted number, whatever the image's size.
        max_side: of the working image, px.
        compactness, iterations: see preprocess.vision.superpixels.slic.
        frame: leave out an artificial frame.
    """

    version = 2
    superpixels: int = 200
    max_side: int = 256
    compactness: float = 20.0
    iterations: int = 10
    frame: bool = True

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        """(n,) float64 saliency in [0, 1] of n superpixels."""
        raise NotImplementedError

    def regions(self, image: np.ndarray) -> Regions:
        """The region graph of an (H, W, 3) uint8 RGB image."""
        return regions(
            image, self.superpixels, self.max_side, self.compactness, self.iterations, self.frame
        )

    def working(self, image: np.ndarray) -> np.ndarray:
        parts = self.regions(image)
        return parts.paint(self.solve(parts))
