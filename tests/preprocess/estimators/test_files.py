"""Maps of other tools: understood where they are unambiguous, refused with the reason otherwise."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.sources.images import ImageError
from preprocess.estimators.files import read_map
from tests.preprocess.runs import inline

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
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a" * (2 << 20), zip=True)  # as editors and generators write
    picture.save(tmp_path / "a.png", pnginfo=text)
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


def icc(picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return picture, {"icc_profile": profile}


CROPPED = Image.fromarray(LEVELS).resize((60, 60))
# name of the image -> its map as (picture, how it is saved), and the mask or the reason
KINDS = {
    b"caf\xe9": (Image.fromarray(LEVELS), {}, SOFT),  # Latin-1
    b"zero_one": (Image.fromarray(TRUTH.astype(np.uint8)), {}, TRUTH),
    b"palette": (palette(CLASSES, VOC), {}, CLASSES > 0),
    b"cutout": (Image.fromarray(RGBA), {}, TRUTH),
    b"deep": (Image.fromarray(np.rint(SOFT * 65535).astype(np.uint16)), {}, SOFT),
    b"float": (Image.fromarray(SOFT.astype(np.float32)), {"format": "TIFF"}, SOFT),
    b"profile": (*icc(Image.fromarray(LEVELS)), SOFT),
    b"exif": (Image.fromarray(LEVELS[::-1]), exif(4), SOFT),
    b"larger": (Image.fromarray(LEVELS).resize((320, 240)), {}, SOFT),
    b"square": (CROPPED, {}, SOFT),  # of the whole picture, as many networks give it
    b"colour": (Image.fromarray(np.dstack([LEVELS, LEVELS // 2, LEVELS])), {}, "a colour picture"),
    b"float255": (
        Image.fromarray(SOFT * 255),
        {"format": "TIFF"},
        "of 65535: a map has 0 to 65535",
    ),
    b"negative": (Image.fromarray(SOFT - 1), {"format": "TIFF"}, "levels below 0, or not finite"),
    b"exchanged": (Image.fromarray(LEVELS).resize((60, 80)), {}, "width and height exchanged"),
}


def test_the_command_counts_what_was_refused_by_reason(tmp_path):
    for folder in ("images", "maps/\udce9"):
        (tmp_path / folder).mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    for name, (picture, options, _) in KINDS.items():
        (tmp_path / "images" / (os.fsdecode(name) + ".jpg")).write_bytes(jpeg)
        picture.save(tmp_path / "maps/\udce9" / (os.fsdecode(name) + ".png"), **options)
    (tmp_path / "images" / "none.jpg").write_bytes(jpeg)
    options = ("--estimator", "files", "--maps", tmp_path / "maps/\udce9", "--side", "60")
    result = inline(tmp_path / "images", tmp_path / "c", *options)
    assert result.returncode == 0, result.stderr
    cache = Cache(tmp_path / "c")
    for row, path in enumerate(cache.paths.tolist()[:-1]):
        expected = KINDS.get(path.removesuffix(b".jpg"), (0, 0, "no map for this image"))[2]
        if isinstance(expected, str):
            assert cache.status[row] == STATUS["no_map"] and not cache.mask(row).any()
            assert expected in result.stdout
        else:
            mask = cv2.resize(expected.astype(np.float32), (60, 60), interpolation=cv2.INTER_AREA)
            assert np.abs(cache.mask(row) / 255 - mask).mean() < 0.01, path
    counts = [line for line in result.stdout.splitlines() if line.startswith("no_map: 1 ")]
    assert len(counts) == 5 and "failed: 5 no_map" in result.stdout
