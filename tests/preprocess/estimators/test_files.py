"""Maps of other tools: understood where they are unambiguous, refused with the reason otherwise."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from data.cache.reader import Cache
from data.sources.images import ImageError
from preprocess.estimators.files import read_map

TRUTH = np.zeros((60, 80), bool)
TRUTH[10:30, 20:70] = True
SOFT = cv2.GaussianBlur(TRUTH.astype(np.float32), (0, 0), 3)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags}


def palette(index, colours):
    picture = Image.fromarray(index.astype(np.uint8)).convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette(colours)
    return picture


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 3 * 252 + [224, 224, 192]
CLASSES = np.where(TRUTH, 1, 0)
CLASSES[40:50, 5:15] = 2
RGBA = np.dstack([np.full((60, 80, 3), 200), TRUTH * 255]).astype(np.uint8)
LEVELS = np.rint(SOFT * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(LEVELS), SOFT),
        (Image.fromarray(np.rint(SOFT * 65535).astype(np.uint16)), SOFT),
        (Image.fromarray(TRUTH.astype(np.uint8)), TRUTH),
        (Image.fromarray(TRUTH.astype(np.uint16)), TRUTH),
        (Image.fromarray(TRUTH), TRUTH),
        (Image.fromarray(np.dstack([LEVELS] * 3)), SOFT),
        (Image.fromarray(np.dstack([LEVELS] * 3 + [np.full_like(LEVELS, 255)])), SOFT),
        (Image.fromarray(RGBA), TRUTH),
        (Image.fromarray(RGBA).convert("LA"), TRUTH),
        (palette(CLASSES, VOC), CLASSES > 0),
        (palette(np.where(TRUTH, 1, 255), VOC), TRUTH),
        (palette(TRUTH, [0, 0, 0, 255, 255, 255]), TRUTH),
        (palette(TRUTH, [0, 0, 0, 1, 1, 1]), TRUTH),
        (palette(TRUTH, [255, 255, 255, 0, 0, 0]), ~TRUTH),
        (Image.fromarray(np.zeros((60, 80), np.uint8)), np.zeros((60, 80))),
    ],
)
def test_an_unambiguous_map_is_right(tmp_path, picture, expected):
    picture.save(tmp_path / "a.png")
    assert read_map(tmp_path, b"a.jpg") == pytest.approx(expected.astype(np.float32), abs=0.003)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.fromarray(np.dstack([LEVELS, LEVELS, LEVELS // 2])), "a colour picture"),
        (palette(TRUTH, [255, 0, 0, 0, 0, 255]), "a colour picture"),
        (Image.fromarray(CLASSES.astype(np.uint8)), "levels 0 to 2 of 255"),
        (Image.fromarray(LEVELS.astype(np.uint16)), "levels 0 to 25[0-5] of 65535"),
        (Image.fromarray(np.where(TRUTH, 7, 255).astype(np.uint8)), "levels of classes"),
    ],
)
def test_an_ambiguous_map_is_refused_with_the_reason(tmp_path, picture, reason):
    picture.save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=f"a.png: {reason}") as error:
        read_map(tmp_path, b"a.jpg")
    assert error.value.reason == "no_map"


def stored(tmp_path, orientation, size=(80, 60)):
    Image.new("RGB", size).save(tmp_path / "image.jpg", **exif(orientation))
    return (tmp_path / "image.jpg").read_bytes()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_map_of_the_displayed_picture_is_turned_back(tmp_path, orientation):
    """Displayed by Pillow itself."""
    from PIL import ImageOps

    image = stored(tmp_path, orientation)
    picture = Image.fromarray(LEVELS)
    picture.save(tmp_path / "stored.png")
    picture.save(tmp_path / "tagged.png", **exif(orientation))
    ImageOps.exif_transpose(Image.open(tmp_path / "tagged.png")).save(tmp_path / "shown.png")
    for name in (b"stored", b"tagged", b"shown"):
        saliency = read_map(tmp_path, name + b".jpg", image)
        assert saliency == pytest.approx(SOFT, abs=0.003), name


def test_a_map_that_may_be_turned_is_refused(tmp_path):
    Image.fromarray(LEVELS).save(tmp_path / "a.png")
    for image in (stored(tmp_path, 3), stored(tmp_path, 6, (70, 70))):
        with pytest.raises(ImageError, match="whether the map is turned cannot be known"):
            read_map(tmp_path, b"a.jpg", image)
    with pytest.raises(ImageError, match="width and height exchanged"):
        read_map(tmp_path, b"a.jpg", stored(tmp_path, 1, (60, 80)))


def test_the_command_counts_what_was_refused_by_reason(tmp_path):
    names = [b"caf\xe9", b"colour", b"grey", b"none"]  # the first is Latin-1
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    jpeg = cv2.imencode(".jpg", np.full((60, 80, 3), 90, np.uint8))[1].tobytes()
    for name in names:
        (tmp_path / "images" / (os.fsdecode(name) + ".jpg")).write_bytes(jpeg)
    pictures = LEVELS, np.dstack([LEVELS, LEVELS // 2, LEVELS]), TRUTH
    for name, picture in zip(names[:3], pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / "maps" / (os.fsdecode(name) + ".png"))
    command = [sys.executable, "-m", "preprocess", str(tmp_path / "images"), str(tmp_path / "c")]
    options = ["--estimator", "files", "--maps", str(tmp_path / "maps"), "--workers", "0"]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    cache = Cache(tmp_path / "c")
    assert [status == 0 for status in cache.status] == [True, False, True, False]
    assert cache.mask(0).max() > 200 and cache.mask(2).max() == 255
    assert "1 a colour picture, no map" in result.stdout
    assert "1 no map for this image" in result.stdout
