"""The augmentation against a literal Pillow paste-then-crop on real photographs, and its exact
properties."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from data.sources.images import decode
from train.config import PasteSettings
from train.copy_paste import copy_paste, paste, soften
from train.crop import Box, crop_mask, random_box, resize_crop
from train.streams import VIEW, stream

SIZE = 224


def literal(image: np.ndarray, mask: np.ndarray, level: int, box: Box, blurred: bool) -> np.ndarray:
    """As the authors' loader: the map at the image's size, perhaps blurred by radius 5, composited,
    then cropped."""
    picture = Image.fromarray(image)
    alpha = Image.fromarray(mask).resize(picture.size, Image.BILINEAR)
    if blurred:
        alpha = alpha.filter(ImageFilter.GaussianBlur(5))
    pasted = Image.composite(picture, Image.new("RGB", picture.size, (level,) * 3), alpha)
    return pillow_crop(pasted, box)


def pillow_crop(picture: Image.Image, box: Box) -> np.ndarray:
    crop = picture.crop((box.x, box.y, box.x + box.w, box.y + box.h))
    return np.asarray(crop.resize((SIZE, SIZE), Image.BILINEAR)).astype(int)


def cases(shared, count: int):
    """Real ECSSD photographs with soft masks made of the true ones, and random crops."""
    for i in range(1, count + 1):
        image = decode((shared / "ecssd" / "images" / f"{i:04d}.jpg").read_bytes())
        truth = cv2.imread(str(shared / "ecssd" / "masks" / f"{i:04d}.png"), cv2.IMREAD_GRAYSCALE)
        soft = cv2.GaussianBlur(truth, (0, 0), 2)
        mask = cv2.resize(soft, (128, 128), interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        yield image, mask, random_box(stream(VIEW, 0, 0, i), width, height, (0.2, 1.0))


@pytest.mark.parametrize("blurred", [False, True])
def test_nearly_the_same_picture_as_paste_then_crop(shared, blurred):
    """Mean difference at most 0.3 grey levels, and 99th percentile at most 3, beyond what the
    resampler differs by."""
    pastes, resamplers = [], []
    for image, mask, box in cases(shared, 60):
        crop = resize_crop(image, box, SIZE)
        alpha = crop_mask(soften(mask, 5, box) if blurred else mask, box, SIZE)
        ours = paste(crop, alpha, np.full_like(crop, 90)).astype(int)
        pastes.append(np.abs(ours - literal(image, mask, 90, box, blurred)))
        resamplers.append(np.abs(crop.astype(int) - pillow_crop(Image.fromarray(image), box)))
    assert np.mean(pastes) <= np.mean(resamplers) + 0.3
    assert np.percentile(pastes, 99) <= np.percentile(resamplers, 99) + 3


def test_every_blend_is_rounded_exactly():
    """All 256^3 triples; no tie is possible, 255 being odd."""
    image, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for level in range(256):
        background = np.full((256, 256, 3), level, np.uint8)
        got = paste(np.repeat(image[..., None], 3, 2), alpha, background)
        twice = 2 * (alpha.astype(np.int32) * image + (255 - alpha.astype(np.int32)) * level)
        assert np.array_equal(got, np.repeat(((twice + 255) // 510)[..., None], 3, 2))


def test_settings_of_the_authors():
    """Probability 0.3 a view, one grey level 0..254; a flipped view takes the flipped mask."""
    box, levels, half = Box(0, 0, 8, 8, 8, 8), [], np.zeros((16, 16), np.uint8)
    half[:, :8] = 255
    image, hard = np.full((8, 8, 3), 77, np.uint8), {"soften_p": 0.0}
    for i in range(4000):
        rng = (stream(1, 0, 0, i) for _ in range(3))
        straight, coverage = copy_paste(PasteSettings(**hard), next(rng), image, half, box, False)
        if coverage is None:
            assert straight is image
            continue
        levels.append(int(straight[0, -1, 0]))
        assert (straight[:, 4:] == levels[-1]).all() and (straight[:, :4] == 77).all()
        flipped, _ = copy_paste(PasteSettings(**hard), next(rng), image, half, box, True)
        assert np.array_equal(flipped, straight[:, ::-1]) and coverage == 0.5
    assert abs(len(levels) / 4000 - 0.3) < 0.03
    assert min(levels) < 5 and 250 <= max(levels) <= 254 and abs(np.mean(levels) - 127) < 8
    always = PasteSettings(paste_p=1.0)
    assert copy_paste(always, stream(1, 0), image, None, box, False) == (image, None)
