"""Maps of other tools: understood where they are unambiguous, refused with the reason otherwise."""

import os

import cv2
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.resize import resize
from data.sources.pack import Settings, pack
from tests.preprocess.runs import inline

TRUTH = np.zeros((60, 80), bool)
TRUTH[10:30, 20:70] = True
SOFT = cv2.GaussianBlur(TRUTH.astype(np.float32), (0, 0), 3)
LEVELS = np.rint(SOFT * 255).astype(np.uint8)
CLASSES = np.where(TRUTH, 1, 0)
CLASSES[40:50, 5:15] = 2
RGBA = np.dstack([np.full((60, 80, 3), 200), TRUTH * 255]).astype(np.uint8)
GREY, CUT_OUT = Image.fromarray(LEVELS), Image.fromarray(RGBA)
TIFF = {"format": "TIFF"}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags}


def palette(index, *colours):
    picture = Image.fromarray(index.astype(np.uint8)).convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette(colours)
    return picture


def displayed(orientation):
    picture = Image.fromarray(LEVELS)
    picture.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(picture)


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 3 * 252 + [224, 224, 192]
# map, and how it is saved; the mask or the reason; the image's EXIF orientation and size
KINDS = [
    (GREY, {}, SOFT),
    (Image.fromarray(np.rint(SOFT * 65535).astype(np.uint16)), {}, SOFT),
    (Image.fromarray(TRUTH.astype(np.uint8)), {}, TRUTH),
    (Image.fromarray(TRUTH), {}, TRUTH),
    (Image.fromarray(SOFT), TIFF, SOFT),
    (Image.fromarray(np.dstack([LEVELS] * 3)), {}, SOFT),
    (Image.fromarray(np.dstack([LEVELS] * 3 + [np.full_like(LEVELS, 255)])), {}, SOFT),
    (CUT_OUT, {}, TRUTH),
    (CUT_OUT.convert("LA"), {}, TRUTH),
    (palette(CLASSES, *VOC), {}, CLASSES > 0),
    (palette(np.where(TRUTH, 1, 255), *VOC), {}, TRUTH),
    (palette(TRUTH, 255, 255, 255, 0, 0, 0), {}, ~TRUTH),
    (GREY.resize((320, 240)), {}, SOFT),
    (GREY.resize((60, 60)), {}, SOFT),  # of the whole picture, as many networks give it
    (Image.fromarray(np.zeros((60, 80), np.uint8)), {}, np.zeros((60, 80))),
    (Image.fromarray(LEVELS[::-1]), exif(4), SOFT),
    (displayed(8), exif(6), SOFT),
    *((GREY, {}, SOFT, turned) for turned in range(5, 9)),
    *((GREY, exif(turned), SOFT, turned) for turned in range(5, 9)),
    *((displayed(turned), {}, SOFT, turned) for turned in range(5, 9)),
    (Image.fromarray(np.dstack([LEVELS, LEVELS, LEVELS // 2])), {}, "a colour picture, no map"),
    (palette(TRUTH, 255, 0, 0, 0, 0, 255), {}, "the first of its palette is not black"),
    (Image.fromarray(CLASSES.astype(np.uint8)), {}, "levels 0 to 2 of 255"),
    (Image.fromarray(LEVELS.astype(np.uint16)), {}, f"levels 0 to {LEVELS.max()} of 65535: a map"),
    (Image.fromarray(SOFT * 200), TIFF, "of 65535: a map has 0 to 65535"),
    (Image.fromarray(SOFT - 1), TIFF, "levels below 0, or not finite"),
    (Image.fromarray(np.where(TRUTH, 7, 255).astype(np.uint8)), {}, "levels of classes"),
    (GREY, {}, "orientation is 3: whether the map is turned cannot be known", 3),
    (GREY, {}, "orientation is 6: whether the map is turned cannot be known", 6, (70, 70)),
    (GREY.resize((30, 40)), {}, "width and height exchanged"),
    (None, {}, "no map for this image"),
]


def test_a_map_is_right_or_refused_with_the_reason(tmp_path):
    images, maps = tmp_path / "images", tmp_path / "maps" / os.fsdecode(b"\xe9")  # Latin-1
    images.mkdir()
    maps.mkdir(parents=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * (2 << 20), zip=True)  # as editors and generators write
    for i, kind in enumerate(KINDS):
        picture, saved, _, orientation, size = kind + (1, (80, 60))[len(kind) - 3 :]
        Image.new("RGB", size).save(images / f"{i:02d}.jpg", **exif(orientation))
        if picture:
            picture.save(maps / f"{i:02d}.png", **saved or {"pnginfo": text})
    options = ("--estimator", "files", "--maps", maps, "--side", "60")
    done = inline(images, tmp_path / "c", *options)
    cache = Cache(tmp_path / "c")
    pack(str(images), str(tmp_path / "pack"), Settings(40))  # reduced, they are turned as before
    assert inline(tmp_path / "pack", tmp_path / "p", *options).returncode == 0
    assert np.array_equal(Cache(tmp_path / "p").column("mask"), cache.column("mask"))
    for i, (_, _, expected, *_) in enumerate(KINDS):
        if isinstance(expected, str):
            assert cache.status[i] == STATUS["no_map"] and not cache.mask(i).any()
            assert expected in done.stdout
        else:
            mask = resize(expected.astype(np.float32), 60, 60)
            assert cache.status[i] == 0 and np.abs(cache.mask(i) / 255 - mask).mean() < 0.01, i
    reasons = [kind[2] for kind in KINDS if isinstance(kind[2], str)]
    assert done.stdout.count("no_map: ") == len(reasons)
    assert f"failed: {len(reasons)} no_map" in done.stdout
