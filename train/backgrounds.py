"""What a foreground is pasted onto, besides a grey level: textures, images with little foreground,
and other images whose own foreground is filled in (Ryali et al., arXiv 2103.12719).

As in the authors' loader a background picture is scaled, aspect kept, until it just covers the
source image, and lies at a random offset on it; what a view shows is the part under the view's
crop. We compute that part alone.

NOTE: the authors draw the offset from half of the slack, so that a picture's far end is never seen;
we draw from all.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data.cache.reader import Cache
from data.cli import UsageError
from data.resize import resize
from data.sources.images import ImageError, Images, decode, image_size, open_images
from train.config import PasteSettings
from train.copy_paste import paste
from train.crop import Box, crop_mask, resize_crop
from train.masks import COVERAGE

FILL = 64  # side at which a donor's foreground is filled in: a smooth filling needs no more
# largest coverage of a donor whose foreground is filled in: more leaves too little to fill it from
FILLABLE = 0.6
TRIES = 100  # broken donors in a row before the run gives up


@dataclass(frozen=True)
class Donor:
    """A background picture over a view.

    Attributes:
        picture: (s, s, 3) uint8, as it is.
        background: (s, s, 3) uint8, its foreground filled in; the same as `picture` where there is
            none to fill.
    """

    picture: np.ndarray
    background: np.ndarray


@dataclass(frozen=True)
class Donors:
    """Draws backgrounds; a draw depends on its stream alone, so neither on workers nor on
    processes.

    Attributes:
        images: pictures.
        pool: (P,) int64, those of `images` that may be drawn, P >= 2.
        cache, rows: masks of the pictures, (len(images),) int64 rows: their foregrounds are filled
            in. None: they are taken as they are.
        apart: the pictures are the run's own images, so an image is never its own background.
    """

    images: Images
    pool: np.ndarray
    cache: Cache | None = None
    rows: np.ndarray | None = None
    apart: bool = True

    def draw(self, rng: np.random.Generator, box: Box, size: int, own: int) -> Donor:
        """A background under the crop `box` of an image.

        Args:
            rng: the view's stream of pasting, after the draws of copy_paste.
            size: s, the view's side.  own: the image's place in the run's list.

        Raises:
            UsageError: TRIES donors in a row cannot be decoded.
        """
        which, left, top = rng.random(3).tolist()
        first = int(which * len(self.pool))
        for offset in range(TRIES):
            donor = int(self.pool[(first + offset) % len(self.pool)])
            if self.apart and donor == own:
                continue
            try:
                picture, part = decode_under(self.images.read(donor), box, size, left, top)
            except ImageError:
                continue
            crop = resize_crop(picture, part, size)
            if self.cache is None:
                return Donor(crop, crop)
            return Donor(crop, remove(picture, self.cache.mask(self.rows[donor]), crop, part))
        raise UsageError(f"{TRIES} backgrounds in a row from {self.images.root} cannot be decoded")


@dataclass
class BackgroundDraw:
    """Draws the background of one view when it is called with the view's stream of pasting.

    Attributes:
        box, flip, size: the view's crop, whether it is mirrored, and its side.
        row: the image's place in the run's list.
        donors: what it is drawn from.
        donor: what was drawn, as it lies under the crop; None as long as nothing was.
    """

    box: Box
    flip: bool
    size: int
    row: int
    donors: Donors | None = None
    donor: Donor | None = None

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        """(s, s, 3) uint8, mirrored where the view is."""
        self.donor = self.donors.draw(rng, self.box, self.size, self.row)
        return cv2.flip(self.donor.background, 1) if self.flip else self.donor.background


def decode_under(
    content: bytes, box: Box, size: int, left: float, top: float
) -> tuple[np.ndarray, Box]:
    """A picture, decoded no finer than a view of `size` needs it, and the box in it that lies under
    `box`.

    Args:
        left, top: the offset as a share of the slack, 0..1.
    """
    width, height = image_size(content)
    # image pixels a picture pixel: it just covers the image
    scale = max(box.width / width, box.height / height)
    x = left * (width * scale - box.width) + box.x
    y = top * (height * scale - box.height) + box.y
    reduce = 1
    while reduce < 8 and min(box.w, box.h) / scale >= 2 * reduce * size:
        reduce *= 2
    picture = decode(content, reduce=reduce)
    height, width = picture.shape[:2]
    scale *= reduce
    x, w = _pixels(x / scale, x / scale + box.w / scale, width)
    y, h = _pixels(y / scale, y / scale + box.h / scale, height)
    return picture, Box(x, y, w, h, width, height)


def _pixels(low: float, high: float, length: int) -> tuple[int, int]:
    """The first of the whole pixels of an interval, and how many they are, one at least."""
    first = min(round(low), length - 1)
    return first, min(max(round(high), first + 1), length) - first


def remove(picture: np.ndarray, mask: np.ndarray, crop: np.ndarray, box: Box) -> np.ndarray:
    """The crop of a picture without the picture's foreground, which is filled in from what is
    around it.

    Args:
        picture: (H, W, 3) uint8.  mask: (S, S) uint8, the whole picture's.
        crop: (s, s, 3) uint8, the part under `box`.

    Returns:
        (s, s, 3) uint8; exactly `crop` where no mask is near.
    """
    gone = cv2.resize(mask, (FILL, FILL), interpolation=cv2.INTER_AREA)
    # half-certain pixels go wholly, and so does the rim, where a squashed mask is never exact
    gone = cv2.dilate(cv2.add(gone, gone), np.ones((3, 3), np.uint8))
    # sampled at twice the side and halved: an area-average of the whole picture would cost three
    # times the filling
    small = cv2.resize(picture, (2 * FILL, 2 * FILL), interpolation=cv2.INTER_LINEAR)
    filled = fill_in(cv2.resize(small, (FILL, FILL), interpolation=cv2.INTER_AREA), gone)
    size = len(crop)
    half = -(-size // 2)  # both are smooth: they are cut out at half of the view's size
    filled, gone = (resize(crop_mask(x, box, half), size, size) for x in (filled, gone))
    return paste(filled, gone, crop)


def fill_in(picture: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Fill a part of a picture smoothly from the rest: push-pull interpolation (Gortler et al.,
    SIGGRAPH 1996).

    Averages of what is known go up a pyramid until nothing is unknown, and come down again into the
    holes.

    Args:
        picture: (n, n, 3) uint8, n a power of two.  gone: (n, n) uint8, 255 = to be filled.

    Returns:
        (n, n, 3) uint8, within the range of the known colours; the mean colour where everything is
        gone.
    """
    colour, weight = picture.astype(np.float32), 1 - gone.astype(np.float32) / 255
    levels = []
    for side in (picture.shape[0] >> i for i in range(1, picture.shape[0].bit_length())):
        levels.append((colour, weight))
        share = cv2.resize(weight, (side, side), interpolation=cv2.INTER_AREA)
        colour = cv2.resize(colour * weight[..., None], (side, side), interpolation=cv2.INTER_AREA)
        colour = colour.reshape(side, side, 3) / np.maximum(share, 1e-9)[..., None]
        weight = np.minimum(4 * share, 1)  # one known pixel of four is enough to trust a mean
    if weight[0, 0] < 1e-6:
        return np.broadcast_to(picture.mean((0, 1)).round().astype(np.uint8), picture.shape).copy()
    for finer, known in reversed(levels):
        side = known.shape[0]
        colour = cv2.resize(colour, (side, side), interpolation=cv2.INTER_LINEAR)
        colour += known[..., None] * (finer - colour)
    return np.rint(colour).astype(np.uint8)


def make_donors(
    settings: PasteSettings, images: Images, cache: Cache, rows: np.ndarray
) -> Donors | None:
    """The configured backgrounds; None for grey ones.

    - texture: every image of --textures.
    - image: of the run's images with a usable mask, the share --pool with the least coverage (ties
      by path), as is.
    - random, swap: the run's images with a usable mask of coverage at most FILLABLE, filled in.

    Raises:
        UsageError: no such textures, or fewer than two backgrounds.
    """
    if settings.background == "grey":
        return None
    if settings.background == "texture":
        textures = open_images(settings.textures)
        return Donors(textures, np.arange(len(textures)), apart=False)
    usable = np.flatnonzero(cache.status[rows] == 0)
    coverage = cache.column(COVERAGE)[rows[usable]]
    if settings.background == "image":
        least = np.argsort(coverage, kind="stable")[: round(settings.pool * len(usable))]
        donors = Donors(images, np.sort(usable[least]))
        why = f"of {len(usable)} images with a usable mask --pool {settings.pool} leaves"
    else:
        donors = Donors(images, usable[coverage <= FILLABLE], cache, rows)
        why = f"of {len(usable)} masks those that cover at most {FILLABLE} of their image are"
    if len(donors.pool) < 2:
        raise UsageError(
            f"--background {settings.background}: {why} {len(donors.pool)}, and two backgrounds "
            "are the least; use another background, or more images"
        )
    return donors
