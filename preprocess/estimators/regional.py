"""What the estimators on the graph of superpixels share."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.frames import inner_box
from preprocess.vision.pixels import lab_planes, working_image
from preprocess.vision.regions import Regions, describe, touching
from preprocess.vision.superpixels import slic


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
        """Superpixels and region graph of an (H, W, 3) uint8 RGB image.

        Zhu et al., CVPR 2014, section 3.1 and the authors' demo.
        """
        whole = working_image(image, self.max_side)
        box = inner_box(whole, self.frame)
        inner = np.ascontiguousarray(whole[box])
        planes = lab_planes(inner)
        labels, count = slic(planes, self.superpixels, self.compactness, self.iterations)
        # 8 px where a superpixel has the authors' 600
        band = max(1, round((labels.size / count) ** 0.5 / 3))
        rgb, position, size, adjacent = describe(labels, inner, count)
        lab = cv2.cvtColor((rgb / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
        return Regions(
            image=inner,
            planes=planes,
            labels=labels,
            shape=whole.shape[:2],
            box=box,
            lab=lab.astype(np.float64),
            position=position / labels.shape,
            size=size,
            border=touching(labels, count, band).any(0),
            sides=touching(labels, count, 1),
            adjacent=adjacent,
        )

    def working(self, image: np.ndarray) -> np.ndarray:
        parts = self.regions(image)
        return parts.paint(self.solve(parts))
