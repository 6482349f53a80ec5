"""Maps that exist on disk: true masks, or another tool's output, brought into a cache."""

import contextlib
import io
import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from data.sources.decode import ORIENTATION, image_size, orientation
from data.sources.images import MAX_PIXELS, ImageError, Images, read_bytes
from data.sources.opencv import silence
from preprocess.estimators.base import Estimator

FAINT = 16  # a largest level under this part of the scale, but for 1, is on another scale
TINT = 8  # levels between the channels of a grey picture that JPEG has had
CLASSES = 20  # of VOC's files of classes; their last level is void
COLOURS = 64  # in a palette of classes; more are a photograph's
INVERSE = {6: 8, 8: 6}  # the other orientations undo themselves


@dataclass(frozen=True)
class Files(Estimator):
    """The maps of a folder."""

    name = "files"
    version = 2
    folder: str

    @property
    def parameters(self) -> dict:
        return {"maps": os.path.basename(self.folder.rstrip("/"))}

    def map_of(self, image: np.ndarray, path: bytes, content: bytes) -> np.ndarray:
        return read_map(self.folder, path, content)


def map_file(folder: str | os.PathLike, path: bytes) -> str:
    """The file of image `path`'s map: FOLDER/<the image's relative path with .png>."""
    stem, _ = os.path.splitext(os.fsdecode(path))
    return os.path.join(folder, f"{stem}.png")


# Pillow refuses a picture with more than 1 MB of text or colour profile, which editors write
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def read_map(folder: str | os.PathLike, path: bytes, image: bytes | None = None) -> np.ndarray:
    """The map of image `path`, see map_file.

    Understood are grey levels (8 or 16 bits, or 0 and 1), palettes of classes (VOC's: every class
    but the void is foreground), and cut-outs, whose alpha channel is the mask.

    Args:
        image: the image's file. Where its EXIF orientation exchanges width and height, and the map
            has the displayed picture's shape, the map is turned back: images are decoded as stored.

    Returns:
        float32 (h, w) in [0, 1], 1 = foreground.

    Raises:
        ImageError: "no_map" where there is no such file, or what it shows is ambiguous.
    """
    file = map_file(folder, path)
    try:
        content = read_bytes("", os.fsencode(file))
    except ImageError as error:
        absent = not os.path.lexists(file)
        reason = "no map for this image" if absent else f"cannot be read ({error})"
        raise ImageError("no_map", f"{file}: {reason}") from error
    try:
        with silence(), Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError("no_map", f"{file}: more than {MAX_PIXELS} pixels")
            picture.load()
            depth = content[24] if picture.format == "PNG" else 8
            levels = _levels(picture, depth)
            return _as_stored(levels, picture.getexif().get(ORIENTATION, 1), image)
    except ValueError as error:
        raise ImageError("no_map", f"{file}: {error}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("no_map", f"{file}: no image that can be read") from error


def _levels(picture: Image.Image, depth: int) -> np.ndarray:
    """Float32 (h, w) in [0, 1]; ValueError: where the foreground is, is ambiguous."""
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture)[..., 3]
        if alpha.min() < 255:
            return _scaled(alpha, 255)
        picture = picture.convert("RGB")
    if picture.mode == "P":
        return _classes(picture)
    values = np.asarray(picture)
    if values.ndim == 3:
        if values.shape[2] != 3 or np.ptp(values, 2).max() > TINT:
            raise ValueError("a colour picture, no map")
        values = values[..., 1]
    if values.dtype == bool:
        return values.astype(np.float32)
    full = 255 if values.dtype == np.uint8 else 65535
    if depth < 8:  # Pillow has spread its levels over 0..255
        full = 2**depth - 1
        values = values // (255 // full)
    return _scaled(values, full)


def _classes(picture: Image.Image) -> np.ndarray:
    """A palette: of greys, or of classes, the first of which is the background."""
    index = np.asarray(picture)
    used = np.unique(index)
    palette = np.asarray(picture.getpalette(), np.uint8).reshape(-1, 3)
    if (np.ptp(palette[used], 1) == 0).all():
        return _scaled(palette[index][..., 0], 255)
    if palette[0].any() or len(used) > COLOURS:
        raise ValueError("a colour picture, no map: the first of its palette is not black")
    return ((index > 0) & (index < 255)).astype(np.float32)


def _scaled(values: np.ndarray, full: int) -> np.ndarray:
    """Grey levels, or 0 and 1, to float32 in [0, 1]."""
    used = np.unique(values)
    low, top = used[0].item(), used[-1].item()
    if low < 0 or not np.isfinite(values).all():
        raise ValueError("levels below 0, or not finite")
    if top <= 1:
        return values.astype(np.float32)
    if top > full or (top < full and (full < 255 or top < full / FAINT)):
        raise ValueError(f"levels 0 to {top:g} of {full}: a map has 0 to {full}, or 0 and 1")
    inner = used[(used > 0) & (used < full)]
    if full == 255 and len(inner) and inner[-1] <= CLASSES:
        raise ValueError("levels of classes: a map has the foreground alone")
    return values.astype(np.float32) / np.float32(full)


def _as_stored(levels: np.ndarray, own: int, image: bytes | None) -> np.ndarray:
    """A map in the orientation in which its image is stored.

    Args:
        own: the map's EXIF orientation.
        image: the image's file, None where it is not at hand.
    """
    shown = _turned(levels, own)
    turn, stored = orientation(image or b""), shown.shape
    with contextlib.suppress(ImageError):
        stored = image_size(image or b"")[::-1]
    fits = _same_aspect(shown.shape, stored)
    turned = _same_aspect(shown.shape, stored[::-1])
    if turn == 1:
        if turned and not fits:
            raise ValueError("the map has the image's width and height exchanged")
        return shown
    if own == 1 and (turn < 5 or fits == turned):
        raise ValueError(
            f"the image's EXIF orientation is {turn}: whether the map is turned cannot be "
            "known; turn the image and remove the tag"
        )
    if own == 1 and fits:
        return levels
    return _turned(shown, INVERSE.get(turn, turn))


def _turned(levels: np.ndarray, orientation: int) -> np.ndarray:
    """A stored map as one of that orientation is displayed."""
    picture = Image.fromarray(levels)
    picture.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


def _same_aspect(shape: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(shape[0] * other[1] / (shape[1] * other[0]) - 1) < 0.02


def refusals(folder: str | os.PathLike, images: Images) -> Counter[str]:
    """How often the images' maps are refused, by reason."""
    reasons: Counter[str] = Counter()
    for row, path in enumerate(images.paths.tolist()):
        try:
            read_map(folder, path, images.read(row))
        except ImageError as error:
            reasons[str(error).removeprefix(f"{map_file(folder, path)}: ")] += 1
    return reasons
