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
    pastes, resamplers = np.stack(pastes), np.stack(resamplers)
    assert pastes.mean() <= resamplers.mean() + 0.3
    assert np.percentile(pastes, 99) <= np.percentile(resamplers, 99) + 3


def test_all_ones_is_the_image_and_all_zero_the_background():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (37, 37, 3), dtype=np.uint8)
    background = rng.integers(0, 256, (37, 37, 3), dtype=np.uint8)
    box = Box(3, 5, 40, 31, 90, 70)
    full, none = (crop_mask(np.full((128, 128), v, np.uint8), box, 37) for v in (255, 0))
    assert np.array_equal(paste(image, full, background), image)
    assert np.array_equal(paste(image, none, background), background)


def test_every_blend_is_rounded_exactly():
    """All 256^3 triples; no tie is possible, 255 being odd."""
    image, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for level in range(256):
        background = np.full((256, 256, 3), level, np.uint8)
        got = paste(np.repeat(image[..., None], 3, 2), alpha, background)
        twice = 2 * (alpha.astype(np.int32) * image + (255 - alpha.astype(np.int32)) * level)
        assert np.array_equal(got, np.repeat(((twice + 255) // 510)[..., None], 3, 2))


def test_settings_of_the_authors():
    """Probability 0.3 a view, one grey level 0..254, half of the masks softened; draws do not
    depend on the mask."""
    image = np.full((8, 8, 3), 77, np.uint8)
    box = Box(0, 0, 8, 8, 8, 8)
    empty, levels = np.zeros((16, 16), np.uint8), []
    for i in range(4000):
        out, pasted = copy_paste(PasteSettings(), stream(1, 0, 0, i), image, empty, box, False)
        if pasted is not None:
            assert (out == out[0, 0, 0]).all()
            levels.append(int(out[0, 0, 0]))
        else:
            assert out is image
    assert abs(len(levels) / 4000 - 0.3) < 0.03
    assert min(levels) < 5 and 250 <= max(levels) <= 254 and abs(np.mean(levels) - 127) < 8
    always = PasteSettings(paste_p=1.0)
    assert copy_paste(always, stream(1, 0), image, None, box, False) == (image, None)


def test_a_flipped_view_takes_the_flipped_mask():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    image = np.full((16, 16, 3), 255, np.uint8)
    box = Box(0, 0, 16, 16, 16, 16)
    hard = PasteSettings(paste_p=1.0, soften_p=0.0)
    straight, flipped = (
        copy_paste(hard, stream(1, 3), image, mask, box, flip)[0] for flip in (False, True)
    )
    assert np.array_equal(flipped, straight[:, ::-1]) and not np.array_equal(flipped, straight)
