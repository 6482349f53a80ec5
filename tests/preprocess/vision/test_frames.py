"""Artificial frames: found where drawn, not where there is none."""

import numpy as np

from preprocess.vision.frames import inner_box


def noise(height, width):
    return np.random.default_rng(1).integers(90, 110, (height, width)).astype(np.uint8)


def test_a_drawn_frame_is_cut():
    grey = noise(200, 256)
    grey[:10] = grey[-10:] = 255
    grey[:, :10] = grey[:, -10:] = 255
    top, bottom, left, right = inner_box(grey)
    assert (
        abs(top - 10) <= 1
        and abs(bottom - 190) <= 1
        and abs(left - 10) <= 1
        and abs(right - 246) <= 1
    )


def test_sides_without_a_frame_take_the_widest():
    grey = noise(200, 256)
    grey[:12] = grey[-8:] = 0
    top, bottom, left, right = inner_box(grey)
    assert abs(top - 12) <= 1 and abs(bottom - 192) <= 1
    assert left == top and 256 - right == top


def test_no_frame():
    assert inner_box(noise(200, 256)) == (0, 200, 0, 256)
    assert inner_box(np.full((200, 256), 7, np.uint8)) == (0, 200, 0, 256)
    assert inner_box(noise(1, 1)) == (0, 1, 0, 1)
    assert inner_box(noise(2, 256)) == (0, 2, 0, 256)


def test_an_edge_deep_inside_is_no_frame():
    grey = noise(200, 256)
    grey[60:] = 255
    assert inner_box(grey) == (0, 200, 0, 256)
