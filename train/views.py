"""Two views of a sample: crop, flip and paste here, in uint8; the colours' parameters are drawn
here and applied on the device (train/photometric.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.resize import resize
from train.config import Config
from train.copy_paste import Box, CopyPaste, crop_mask, paste
from train.resample import area
from train.saliency_crop import keep
from train.streams import PASTE, RECROP, VIEW, stream

if TYPE_CHECKING:
    from train.backgrounds import Donors, Over

# columns of a view's photometric parameters
BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GREY, SIGMA, SOLARISE, PASTED, COVERAGE = range(10)
PARAMETERS = 10
NEGATIVE = 2  # the number, as a view, of swap's extra negative
LEAST_SHARE = (
    0.05  # foreground of a query's view for such a negative: with less it would be nearly the query
)
PASTED_VIEWS = {"both": (0, 1), "query": (0,), "key": (1,)}
RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop, as torchvision's


@dataclass(frozen=True)
class Views:
    """Draws the two views of an image. Picklable, and without state: see train/streams.py."""

    seed: int
    size: int
    crop: tuple[float, float]
    flip_p: float
    jitter: tuple[float, float, float, float]
    jitter_p: float
    grey_p: float
    blur_p: float
    blur_sigma: tuple[float, float]
    copy_paste: CopyPaste
    second_blur_p: float | None = None  # None: as the first view's
    solarise_p: tuple[float, float] = (0.0, 0.0)
    pasted: tuple[int, ...] = (0, 1)  # the views that may be pasted
    keeps: float = 0.0  # share of the mask that each crop keeps

    @classmethod
    def of(cls, config: Config) -> Views:
        return cls(
            config.seed,
            config.size,
            config.crop,
            config.flip_p,
            config.jitter,
            config.jitter_p,
            config.grey_p,
            config.blur_p,
            config.blur_sigma,
            CopyPaste(config.paste_p, config.soften_p, config.soften_sigma),
            config.second_blur_p,
            config.solarise_p,
            PASTED_VIEWS[config.pasted_views()],
            config.crop_keeps,
        )

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray | None,
        epoch: int,
        index: int,
        out: np.ndarray,
        parameters: np.ndarray,
        donors: Donors | None = None,
        own: int = -1,
    ) -> None:
        """Fill the two views of one image.

        Args:
            image: (H, W, 3) uint8 RGB.  mask: (S, S) uint8 or None, the whole image's.
            out: (V, s, s, 3) uint8, filled with V views; the one after a second is swap's extra
                negative.
            parameters: (V, PARAMETERS) float32, filled.
            donors: backgrounds; None: grey.  own: the image's number among the run's images.
        """
        drawn = []
        for view in range(min(len(out), NEGATIVE)):
            rng = stream(VIEW, self.seed, epoch, index, view)
            self._photometric(rng, parameters[view], view)
            flip = rng.random() < self.flip_p
            box = random_box(rng, image.shape[1], image.shape[0], self.crop)
            if self.keeps and mask is not None:
                box = self._keep(mask, box, epoch, index, view)
            # drawn last, so that runs with and without it see the same crops and colours
            parameters[view, SOLARISE] = rng.random() < self.solarise_p[view]
            crop = resize_crop(image, box, self.size, flip, out[view])
            rng = stream(PASTE, self.seed, epoch, index, view)
            background = donors.over(box, flip, self.size, own) if donors else None
            pasted, coverage = self.copy_paste(
                rng, crop, mask if view in self.pasted else None, box, flip, background
            )
            if pasted is not crop:
                out[view] = pasted
            parameters[view, PASTED] = coverage is not None
            parameters[view, COVERAGE] = coverage or 0.0
            drawn.append((box, flip, background))
        if len(out) > NEGATIVE:
            self._negative(mask, epoch, index, out, parameters, drawn)

    def _keep(self, mask: np.ndarray, first: Box, epoch: int, index: int, view: int) -> Box:
        # a stream of its own, and only where it is needed: the other draws stay as they are without
        rng = stream(RECROP, self.seed, epoch, index, view)
        return keep(
            mask, first, self.keeps, lambda: random_box(rng, first.width, first.height, self.crop)
        )

    def _negative(
        self,
        mask: np.ndarray | None,
        epoch: int,
        index: int,
        out: np.ndarray,
        parameters: np.ndarray,
        drawn: list[tuple[Box, bool, Over | None]],
    ) -> None:
        """Swap's extra negative: the query with its foreground replaced by what the positive's
        donor shows there, so that it shares the query's background and nothing else. It is made
        where the positive was pasted and the query shows enough foreground; elsewhere it is the
        query itself, and PASTED = 0 says that it does not count."""
        query, last = out[0], drawn[-1][2]
        share = 0.0
        if last is not None and last.donor is not None:
            box, flip, _ = drawn[0]
            alpha = crop_mask(mask, box, self.size)
            share = cv2.mean(alpha)[0] / 255
        made = share >= LEAST_SHARE
        out[NEGATIVE] = (
            paste(last.donor.picture, alpha[:, ::-1] if flip else alpha, query) if made else query
        )
        self._photometric(stream(VIEW, self.seed, epoch, index, NEGATIVE), parameters[NEGATIVE])
        parameters[NEGATIVE, [SOLARISE, PASTED, COVERAGE]] = 0, made, share if made else 0

    def _photometric(self, rng: np.random.Generator, row: np.ndarray, view: int = 0) -> None:
        u = rng.random(9)
        for column, strength in zip(
            (BRIGHTNESS, CONTRAST, SATURATION), self.jitter[:3], strict=True
        ):
            low = max(0.0, 1 - strength)
            row[column] = low + (1 + strength - low) * u[column]
        row[HUE] = self.jitter[3] * (2 * u[HUE] - 1)
        row[ORDER] = int(u[4] * 24) if u[5] < self.jitter_p else -1
        row[GREY] = u[6] < self.grey_p
        blur_p = self.second_blur_p if view and self.second_blur_p is not None else self.blur_p
        row[SIGMA] = (
            self.blur_sigma[0] + (self.blur_sigma[1] - self.blur_sigma[0]) * u[7]
            if u[8] < blur_p
            else 0
        )


def random_box(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float]
) -> Box:
    """A random resized crop's box with torchvision's law: area uniform in `scale`, aspect
    log-uniform in RATIO, ten tries, then the largest centred box whose aspect is allowed."""
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(10):
        area, aspect, left, top = rng.random(4).tolist()
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(
                int(left * (width - w + 1)), int(top * (height - h + 1)), w, h, width, height
            )
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return Box((width - w) // 2, (height - h) // 2, w, h, width, height)


def resize_crop(
    image: np.ndarray, box: Box, size: int, flip: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """The box of the image at (size, size, 3) uint8: area-averaged where it shrinks, linear where
    it grows.

    Args:
        flip: mirror it left to right.  out: (size, size, 3) uint8, contiguous, filled and returned;
            None: a new one.
    """
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    if box.w >= size and box.h >= size and image.flags.c_contiguous:
        area(image, box.x, box.y, box.w, box.h, flip, out)
        return out
    crop = image[box.y : box.y + box.h, box.x : box.x + box.w]
    resize(crop, size, size, out)
    return cv2.flip(out, 1, dst=out) if flip else out
