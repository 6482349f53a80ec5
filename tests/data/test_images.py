"""Listing and decoding."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from data.cli import UsageError
from data.images import ImageError, decode, list_images


def test_list_is_sorted_by_bytes_at_any_depth_and_follows_links(tmp_path):
    for name in ("b/x.JPEG", "a/deep/er/y.png", "a/ünï code.webp", "a/notes.txt", "Z.bmp"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jpg").write_bytes(b"x")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "c")
    os.symlink(tmp_path / "root", tmp_path / "root" / "loop")  # must not be walked for ever
    found = [p.decode() for p in list_images(tmp_path / "root").tolist()]
    assert found == sorted(["Z.bmp", "a/deep/er/y.png", "a/ünï code.webp", "b/x.JPEG", "c/linked.jpg"], key=str.encode)


def test_bad_folders(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        list_images(tmp_path / "nope")
    with pytest.raises(UsageError, match="no images"):
        list_images(tmp_path)


def test_decodes_to_rgb_as_pillow_does(shared):
    for path in sorted((shared / "imagenet_sample").rglob("*.JPEG"))[:20]:
        ours = decode(path.read_bytes())
        theirs = np.asarray(Image.open(path).convert("RGB"))
        assert ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).mean() < 1.5, path


def test_odd_images(shared):
    odd = shared / "odd_images"
    reasons = {"empty.jpg": "empty", "text.jpg": "unreadable", "header_only.jpg": "unreadable",
               "bomb_30000x30000.png": "too_large"}
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as error:
            decode((odd / name).read_bytes())
        assert error.value.reason == reason, name
    for name in ("grey.jpg", "grey16.png", "rgba.png", "palette.png", "cmyk.jpg", "png_named.jpg", "webp_image.webp"):
        assert decode((odd / name).read_bytes()).shape == (263, 376, 3), name
    assert decode((odd / "exif_rotated.jpg").read_bytes()).shape == (263, 376, 3)  # orientation is ignored
    assert decode((odd / "one_pixel.png").read_bytes()).shape == (1, 1, 3)


def test_the_cap_is_on_pixels():
    content = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    assert decode(content, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="30x20 pixels, more than the cap of 599"):
        decode(content, max_pixels=599)
