"""Views: boxes and masks stay on their objects, draws are by (seed, step, row), order by (seed,
epoch)."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.cli import UsageError
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import SCHEDULES, Schedule
from evaluate.detection.views import GroupedBatches, Views, resized
from train import distributed

SCHEDULE = Schedule(10, (6, 8), 2, (48, 64, 80), batch=2, test_scale=64, longest=200)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> AnnotatedImages:
    """Eleven black images with two bright rectangles each, some upright and some wide."""
    root, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    images, objects = [], []
    for i in range(11):
        height, width = (60, 90) if i % 3 else (90, 60)
        image = np.zeros((height, width, 3), np.uint8)
        for j in range(2):
            x, y = 30 * j + int(rng.integers(0, 5)), int(rng.integers(0, 20))
            w, h = 20, int(rng.integers(15, 40))
            image[y : y + h, x : x + w, j] = 255
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            a = {"id": len(objects) + 1, "image_id": i + 5, "category_id": 3 + j, "area": w * h}
            a |= {"iscrowd": 0, "learnt": True, "bbox": [x, y, w, h], "segmentation": [polygon]}
            objects.append(a)
        cv2.imwrite(str(root / f"{i}.png"), image[..., ::-1])
        images.append({"id": i + 5, "width": width, "height": height, "file_name": f"{i}.png"})
    categories = [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]
    truth = {"images": images, "annotations": objects, "categories": categories}
    return AnnotatedImages("squares", root, truth)


def with_run_lengths(images: AnnotatedImages) -> AnnotatedImages:
    """The same objects, outlined by run lengths instead of polygons."""
    objects = [dict(a) for a in images.truth["annotations"]]
    sizes = {i["id"]: (i["height"], i["width"]) for i in images.truth["images"]}
    for a in objects:
        pixels = np.zeros(sizes[a["image_id"]], np.uint8)
        x, y, w, h = a["bbox"]
        pixels[y : y + h, x : x + w] = 1
        flat = np.concatenate([[0], pixels.T.ravel(), [2]])
        counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
        a["segmentation"] = {"size": list(pixels.shape), "counts": counts}
    return replace(images, truth=images.truth | {"annotations": objects})


@pytest.mark.parametrize("form", [lambda images: images, with_run_lengths])
def test_boxes_and_masks_stay_on_their_objects(squares, form):
    data, sides, left = Views(form(squares), SCHEDULE, True, outlines=True), Counter(), Counter()
    for step in range(8):
        for row in range(len(squares)):
            image, target = data.view(step, row)
            boxes, masks = target["boxes"], target["masks"]
            sides[min(image.shape[1:])] += 1
            assert target["labels"].tolist() == [1, 2]
            assert masks.shape == (2, *image.shape[1:])
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


def test_views_are_by_seed_step_and_row(squares):
    def boxes(seed: int, step: int) -> torch.Tensor:
        data = Views(squares, replace(SCHEDULE, seed=seed), True)
        return torch.cat([data.view(step, row)[1]["boxes"] for row in range(len(squares))])

    assert torch.equal(boxes(0, 1), boxes(0, 1))
    assert not torch.equal(boxes(0, 1), boxes(0, 2))
    assert not torch.equal(boxes(0, 1), boxes(1, 1))


def test_test_views_are_whole_without_objects_and_resized_as_pillow_does(squares):
    image, target = Views(squares, SCHEDULE, False).view(0, 1)
    assert image.shape == (3, 64, 96) and not target
    expected = Image.open(squares.file(1)).resize((96, 64), Image.BILINEAR)
    difference = image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1


def test_images_that_cannot_be_used_are_named(squares, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((10, 10, 3), np.uint8))
    for name, message in (("bad.png", "bad.png"), ("small.png", "10x10"), ("gone.png", "gone.png")):
        images = [squares.truth["images"][0] | {"file_name": name}, *squares.truth["images"][1:]]
        broken = AnnotatedImages("x", Path(tmp_path), squares.truth | {"images": images})
        with pytest.raises(UsageError, match=message):
            Views(broken, SCHEDULE, True).view(0, 0)


def test_order_is_the_same_however_many_processes_and_from_any_step(squares, monkeypatch):
    whole = list(GroupedBatches(squares, SCHEDULE, 40))
    assert [batch[0][0] for batch in whole] == list(range(40))
    for batch in whole:
        assert len(batch) == 2 and len({squares.size(row) for _, row in batch}) == 1
    counts = Counter(row for batch in whole for _, row in batch)
    assert max(counts.values()) - min(counts.values()) <= 2 and len(counts) == 11
    assert list(GroupedBatches(squares, SCHEDULE, 40, start=13)) == whole[13:]
    assert list(GroupedBatches(squares, replace(SCHEDULE, seed=1), 40)) != whole
    monkeypatch.setattr(distributed, "world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(GroupedBatches(squares, SCHEDULE, 40)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_sizes_are_detectron2s():
    # ResizeShortestEdge: the short side to 800 unless the long one would pass 1333; halves round up
    assert resized(375, 500, 800, 1333) == (800, 1067)
    assert resized(500, 333, 800, 1333) == (1201, 800)
    assert resized(300, 900, 800, 1333) == (444, 1333)


def test_schedules_are_mocos():
    voc, coco = SCHEDULES["voc_24k"], SCHEDULES["coco_1x"]
    assert (voc.iterations, voc.lr, voc.batch, voc.test_scale) == (24000, 0.02, 16, 800)
    assert voc.scales == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (coco.iterations, coco.drops, coco.warmup) == (90000, (60000, 80000), 1000)
    assert coco.scales == (640, 672, 704, 736, 768, 800) and coco.longest == 1333
    rates = [voc.lr * voc.factor(step) for step in (0, 50, 100, 17999, 18000, 21999, 22000, 23999)]
    np.testing.assert_allclose(rates, [2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 2e-4, 2e-4])
    half = voc.with_batch(8)
    assert (half.iterations, half.drops) == (48000, (36000, 44000))
    assert (half.lr, half.warmup, half.batch) == (0.01, 200, 8)
