"""The augmentation against a literal Pillow paste-then-crop; crops against torchvision."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from data.cache.reader import Cache
from data.sources.images import decode
from tests.train.runs import COLOURS, pairs
from train.config import PasteSettings
from train.copy_paste import copy_paste, paste, soften
from train.crop import Box, crop_mask, kept, random_box, resize_crop
from train.parameters import COVERAGE
from train.streams import VIEW, stream

SIZE = 224
CROPS = [(64, 64, 64), (65, 90, 64), (399, 299, 20), (20, 20, 32), (60, 25, 32)]


def literal(image: np.ndarray, mask: np.ndarray, level: int, box: Box, blurred: bool) -> np.ndarray:
    """As the authors' loader: the map at the image's size, blurred, composited, then cropped."""
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
    """Beyond what the resampler differs by."""
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
    assert np.array_equal(soften(half, 1000, box), soften(half, 8, box))  # or it takes seconds
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


def test_crops_follow_torchvisions_law():
    torch.manual_seed(0)
    law = torch.zeros(3, 375, 500), (0.2, 1.0), (3 / 4, 4 / 3)
    theirs = np.array([RandomResizedCrop.get_params(*law) for _ in range(10_000)])
    boxes = [random_box(stream(VIEW, 0, 0, i), 500, 375, (0.2, 1.0)) for i in range(10_000)]
    ours = np.array([(b.y, b.x, b.h, b.w) for b in boxes])
    statistics = [(h * w, w / h, y + x) for y, x, h, w in (ours.T, theirs.T)]
    for one, other in zip(*statistics, strict=True):
        assert ks_2samp(one, other).pvalue > 1e-4
    sizes = (1, 1), (3000, 2), (2, 9)
    boxes += [random_box(stream(VIEW, 0), *size, (0.2, 1.0)) for size in sizes]
    assert all(0 <= b.x < b.x + b.w <= b.width and 0 <= b.y < b.y + b.h <= b.height for b in boxes)


@pytest.mark.parametrize("crop", CROPS)
def test_a_crop_is_opencvs_whether_it_grows_or_shrinks(crop):
    w, h, size = crop
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    x, y = 400 - w, (300 - h) // 2
    law = cv2.INTER_AREA if w * h > size**2 else cv2.INTER_LINEAR
    expected = cv2.resize(picture[y : y + h, x:], (size, size), interpolation=law).astype(int)
    box, into = Box(x, y, w, h, 400, 300), np.zeros((2, size, size, 3), np.uint8)
    for flip in (False, True):
        wanted = expected[:, ::-1] if flip else expected
        difference = np.abs(resize_crop(picture, box, size, flip, into[1]) - wanted)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01  # halves go to the even
        assert np.array_equal(into[1], resize_crop(picture, box, size, flip)) and not into[0].any()
    strided = resize_crop(np.stack([picture, picture], 3)[..., 1], box, size).astype(int)
    assert np.abs(strided - expected).max() <= 1


def test_crop_of_a_mask_is_sub_pixel():
    ramp = np.tile(np.arange(128, dtype=np.uint8), (128, 1))
    for x, y, w, h in ((101, 0, 300, 375), (7, 30, 50, 60), (1, 1, 498, 370)):
        for size in (32, 224):
            at = (x + (np.arange(size) + 0.5) * w / size) * 128 / 500 - 0.5
            crop = crop_mask(ramp, Box(x, y, w, h, 500, 375), size)
            inside = (at > 1) & (at < 126)
            assert np.abs(crop[:, inside] - at[inside]).max() <= 1.01, (x, size)


def test_kept_is_the_masks_mass_in_the_box():
    mask = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    fine = np.kron(mask, np.ones((30, 20)))  # the image of 320 x 480 that the mask stands for
    for i in range(50):
        box = random_box(stream(VIEW, 0, 0, i), 320, 480, (0.01, 1.0))
        plain = fine[box.y : box.y + box.h, box.x : box.x + box.w].sum() / fine.sum()
        assert kept(mask, box) == pytest.approx(plain, abs=1e-9)


def test_crops_keep_the_share_and_nothing_else_changes(images, truth_cache):
    cache = Cache(truth_cache)
    items, batches = [(epoch, index) for epoch in range(3) for index in range(80)], []
    for share in (0.0, 0.6):
        changes = {"crop": (0.1, 0.5), "paste_p": 1.0, "soften_p": 0.0, "crop_keeps": share}
        batches.append(pairs(images, cache, **changes).__getitems__(items))
    plain, keeping = batches
    same = (plain["views"] == keeping["views"]).flatten(2).all(2)
    assert 0.1 < same.float().mean() < 0.9
    assert torch.equal(plain["parameters"][..., COLOURS], keeping["parameters"][..., COLOURS])
    more = keeping["parameters"][..., COVERAGE] - plain["parameters"][..., COVERAGE]
    assert more[~same].mean() > 0.1 and (more[same] == 0).all()
