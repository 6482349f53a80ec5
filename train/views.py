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
class Draw:
    """What is drawn of a view before its image is decoded.

    Attributes:
        key: seed, epoch, index and view: what all that is drawn depends on.
        rng: the view's stream, as far as the crop.
        pasting: its stream of pasting.
    """

    key: tuple[int, int, int, int]
    rng: np.random.Generator
    pasting: np.random.Generator
    flip: bool


@dataclass(frozen=True)
class Sample:
    """What views are made of.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (S, S) uint8, the whole image's; None: never pasted.
        row: the image's place in the run's list: `index`, or another where that one is broken.
    """

    image: np.ndarray
    mask: np.ndarray | None
    row: int


@dataclass(frozen=True)
class Views:
    """Draws the views of an image. Picklable, and without state: see train/streams.py.

    Attributes:
        donors: backgrounds; None: grey.
    """

    config: Config
    donors: Donors | None = None

    def draw(self, epoch: int, index: int, parameters: np.ndarray) -> list[Draw]:
        """Draw the colours of an image's views, which its size does not matter to.

        A batch's are drawn at once: between two decoded images Python takes four times as long, as
        nothing of it is left in the processor's caches.

        Args:
            parameters: (V, PARAMETERS) float32, filled as far as SIGMA, see train/parameters.py.
        """
        draws, settings = [], self.config.views
        for view, row in enumerate(parameters):
            key = self.config.seed, epoch, index, view
            rng = stream(VIEW, *key)
            # the extra negative has the law of the query's colours
            draw_colours(rng, settings, view % NEGATIVE, row)
            draws.append(Draw(key, rng, stream(PASTE, *key), rng.random() < settings.flip_p))
        return draws

    def __call__(
        self, sample: Sample, draws: list[Draw], out: np.ndarray, parameters: np.ndarray
    ) -> None:
        """Fill the views of one image.

        Args:
            draws: V of them.
            out: (V, s, s, 3) uint8, filled; the view after a second is swap's extra negative.
            parameters: (V, PARAMETERS) float32, as `draw` left them; the rest is filled.
        """
        backgrounds = [
            self._view(sample, *view)
            for view in zip(draws[:NEGATIVE], out, parameters, strict=False)
        ]
        if len(out) > NEGATIVE:
            self._negative(sample, out, parameters[NEGATIVE], backgrounds)

    def _view(self, sample: Sample, draw: Draw, out: np.ndarray, row: np.ndarray) -> BackgroundDraw:
        """Fill one view; what its background was drawn by, where it was pasted."""
        settings, pasting, mask = self.config.views, self.config.paste, sample.mask
        (height, width), view = sample.image.shape[:2], draw.key[-1]
        box = random_box(draw.rng, width, height, settings.crop)
        # drawn last, so that runs with and without it see the same crops and colours
        row[SOLARISE] = draw.rng.random() < settings.solarise_p[view]
        if settings.crop_keeps and mask is not None:
            again = stream(RECROP, *draw.key)
            redraw = partial(random_box, again, width, height, settings.crop)
            box = keep(mask, box, settings.crop_keeps, redraw)
        resize_crop(sample.image, box, len(out), draw.flip, out)
        background = BackgroundDraw(box, draw.flip, len(out), sample.row, self.donors)
        pasted, coverage = copy_paste(
            pasting,
            draw.pasting,
            out,
            mask if view in pasting.pasted_views else None,
            box,
            draw.flip,
            background if self.donors else None,
        )
        if pasted is not out:
            out[...] = pasted
        row[PASTED] = coverage is not None
        row[COVERAGE] = coverage or 0.0
        return background

    def _negative(
        self, sample: Sample, out: np.ndarray, row: np.ndarray, backgrounds: list[BackgroundDraw]
    ) -> None:
        """Swap's extra negative: the query with its foreground replaced by what the positive's
        donor shows there, so that it shares the query's background and nothing else.

        It is made where the positive was pasted and the query shows enough foreground; elsewhere it
        is the query itself, and PASTED = 0 says that it does not count.
        """
        query, donor, share = backgrounds[0], backgrounds[1].donor, 0.0
        if donor is not None:
            alpha = crop_mask(sample.mask, query.box, query.size, query.flip)
            share = cv2.mean(alpha)[0] / 255
        counts = share >= LEAST_SHARE
        out[NEGATIVE] = paste(donor.picture, alpha, out[0]) if counts else out[0]
        row[[SOLARISE, PASTED, COVERAGE]] = 0, counts, share if counts else 0
