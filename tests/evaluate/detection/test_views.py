"""Views: boxes and masks stay on their objects, whatever is drawn; the order of images."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import SCHEDULES, Schedule
from evaluate.detection.views import GroupedBatches, Views, resized
from tests.conftest import refused

SCHEDULE = Schedule(10, (6, 8), 2, (48, 64, 80), batch=2, test_scale=64, longest=200)


def test_boxes_and_masks_stay_on_their_objects(squares):
    data, sides, left = Views(squares, SCHEDULE, True, outlines=True), Counter(), Counter()
    for step, row in np.ndindex(8, len(squares)):
        image, target = data.view(step, row)
        boxes, masks = target["boxes"], target["masks"]
        sides[min(image.shape[1:])] += 1
        assert target["labels"].tolist() == [1, 2] and masks.shape == (2, *image.shape[1:])
        for j in range(2):
            bright = image[j].numpy() >= 128
            ys, xs = np.nonzero(bright)
            edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert np.abs(boxes[j].numpy() - edges).max() < 0.8
            mask = masks[j].numpy().astype(bool)
            assert (mask & bright).sum() / (mask | bright).sum() > 0.9
        left[bool(boxes[0, 0] < boxes[1, 0])] += 1
    assert set(sides) == {48, 64, 80} and min(sides.values()) > 15
    assert min(left.values()) > 30  # about half are flipped
    other = Views(squares, replace(SCHEDULE, seed=1), True)
    assert data.view(0, 0)[0].equal(data.view(0, 0)[0])
    assert not data.view(0, 0)[0].equal(other.view(0, 0)[0])


def test_test_views_are_whole_and_resized_as_pillow_does(squares, tmp_path):
    image, target = Views(squares, SCHEDULE, False).view(0, 1)
    assert image.shape == (3, 64, 96) and not target
    expected = Image.open(squares.file(1)).resize((96, 64), Image.BILINEAR)
    difference = image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    # images that cannot be used are named
    (tmp_path / "bad.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((10, 10, 3), np.uint8))
    for name, message in (("bad.png", "bad.png"), ("small.png", "10x10"), ("gone.png", "gone.png")):
        images = [squares.truth["images"][0] | {"file_name": name}, *squares.truth["images"][1:]]
        broken = AnnotatedImages("x", tmp_path, squares.truth | {"images": images})
        assert message in refused(Views(broken, SCHEDULE, True).view, 0, 0)


def test_order_is_the_same_however_many_processes_and_from_any_step(squares, monkeypatch):
    whole = list(GroupedBatches(squares, SCHEDULE, 40))
    assert [batch[0][0] for batch in whole] == list(range(40))
    for batch in whole:
        assert len(batch) == 2 and len({squares.size(row) for _, row in batch}) == 1
    counts = Counter(row for batch in whole for _, row in batch)
    assert max(counts.values()) - min(counts.values()) <= 2 and len(counts) == 11
    assert list(GroupedBatches(squares, SCHEDULE, 40, start=13)) == whole[13:]
    assert list(GroupedBatches(squares, replace(SCHEDULE, seed=1), 40)) != whole
    monkeypatch.setattr("train.distributed.world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("train.distributed.rank", lambda rank=rank: rank)
        parts.append(list(GroupedBatches(squares, SCHEDULE, 40)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_sizes_are_detectron2s_and_schedules_mocos():
    # ResizeShortestEdge: the short side to 800 unless the long one would pass 1333; halves round up
    sizes = {(375, 500): (800, 1067), (500, 333): (1201, 800), (300, 900): (444, 1333)}
    assert {size: resized(*size, 800, 1333) for size in sizes} == sizes
    voc, coco = SCHEDULES["voc_24k"], SCHEDULES["coco_1x"]
    assert (voc.iterations, voc.lr, voc.batch, voc.test_scale) == (24000, 0.02, 16, 800)
    assert len(voc.scales) == 11 and voc.scales[::5] == (480, 640, 800)
    assert (coco.iterations, coco.drops, coco.warmup) == (90000, (60000, 80000), 1000)
    assert coco.scales == (640, 672, 704, 736, 768, 800) and coco.longest == 1333
    factors = {0: 0.001, 50: 0.5005, 100: 1, 17999: 1, 18000: 0.1, 21999: 0.1, 22000: 0.01}
    assert {step: voc.factor(step) for step in factors} == pytest.approx(factors)
    half = voc.with_batch(8)
    assert (half.iterations, half.drops) == (48000, (36000, 44000))
    assert (half.lr, half.warmup, half.batch) == (0.01, 200, 8)
