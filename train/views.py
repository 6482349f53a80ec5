"""Views of an image: crop, flip and paste here, in uint8; the colours' parameters are drawn here
and applied on the device (train/photometric.py)."""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from train.backgrounds import BackgroundDraw, Donors
from train.config import Config
from train.copy_paste import copy_paste, paste
from train.crop import crop_mask, keep, random_box, resize_crop
from train.parameters import COVERAGE, PASTED, SOLARISE, draw_colours
from train.streams import PASTE, RECROP, VIEW, stream

NEGATIVE = 2  # the number, as a view, of swap's extra negative
# Foreground of a query's view for such a negative: with less it would be nearly the query.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Sample:
    """What views are made of.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (S, S) uint8, the whole image's; None: never pasted.
        epoch, index: with the seed and the view the key of all that is drawn.
        row: the image's place in the run's list: `index`, or another where that one is broken.
    """

    image: np.ndarray
    mask: np.ndarray | None
    epoch: int
    index: int
    row: int


@dataclass(frozen=True)
class Views:
    """Draws the views of an image. Picklable, and without state: see train/streams.py.

    Attributes:
        donors: backgrounds; None: grey.
    """

    config: Config
    donors: Donors | None = None

    def __call__(self, sample: Sample, out: np.ndarray, parameters: np.ndarray) -> None:
        """Fill the views of one image.

        Args:
            out: (V, s, s, 3) uint8, filled; the view after a second is swap's extra negative.
            parameters: (V, PARAMETERS) float32, filled, see train/parameters.py.
        """
        drawn = [
            self._view(sample, view, out[view], parameters[view])
            for view in range(min(len(out), NEGATIVE))
        ]
        if len(out) > NEGATIVE:
            self._negative(sample, out, parameters[NEGATIVE], drawn)

    def _view(self, sample: Sample, view: int, out: np.ndarray, row: np.ndarray) -> BackgroundDraw:
        """Fill one view; what its background was drawn by, where it was pasted."""
        key = self.config.seed, sample.epoch, sample.index, view
        settings, pasting, mask = self.config.views, self.config.paste, sample.mask
        height, width = sample.image.shape[:2]
        rng = stream(VIEW, *key)
        draw_colours(rng, settings, view, row)
        flip = rng.random() < settings.flip_p
        box = random_box(rng, width, height, settings.crop)
        # drawn last, so that runs with and without it see the same crops and colours
        row[SOLARISE] = rng.random() < settings.solarise_p[view]
        if settings.crop_keeps and mask is not None:
            again = stream(RECROP, *key)
            draw = partial(random_box, again, width, height, settings.crop)
            box = keep(mask, box, settings.crop_keeps, draw)
        resize_crop(sample.image, box, len(out), flip, out)
        background = BackgroundDraw(box, flip, len(out), sample.row, self.donors)
        pasted, coverage = copy_paste(
            pasting,
            stream(PASTE, *key),
            out,
            mask if view in pasting.pasted_views else None,
            box,
            flip,
            background if self.donors else None,
        )
        if pasted is not out:
            out[...] = pasted
        row[PASTED] = coverage is not None
        row[COVERAGE] = coverage or 0.0
        return background

    def _negative(
        self, sample: Sample, out: np.ndarray, row: np.ndarray, drawn: list[BackgroundDraw]
    ) -> None:
        """Swap's extra negative: the query with its foreground replaced by what the positive's
        donor shows there, so that it shares the query's background and nothing else.

        It is made where the positive was pasted and the query shows enough foreground; elsewhere it
        is the query itself, and PASTED = 0 says that it does not count.
        """
        query, donor, share = drawn[0], drawn[1].donor, 0.0
        if donor is not None:
            alpha = crop_mask(sample.mask, query.box, query.size, query.flip)
            share = cv2.mean(alpha)[0] / 255
        counts = share >= LEAST_SHARE
        out[NEGATIVE] = paste(donor.picture, alpha, out[0]) if counts else out[0]
        rng = stream(VIEW, self.config.seed, sample.epoch, sample.index, NEGATIVE)
        draw_colours(rng, self.config.views, 0, row)
        row[[SOLARISE, PASTED, COVERAGE]] = 0, counts, share if counts else 0
