"""Views: boxes and masks stay on their objects, draws are by (seed, step, row), order by (seed,
epoch)."""

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data.cli import UsageError
from evaluate.detection import views as module
from evaluate.detection.annotations import Annotated
from evaluate.detection.schedules import SCHEDULES, Schedule
from evaluate.detection.views import Order, Views, resized

SCHEDULE = Schedule(10, (6, 8), 2, (48, 64, 80), batch=2, test_scale=64, longest=200)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Annotated:
    """Eleven black images with two bright rectangles each, some upright and some wide."""
    root, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    images, annotations = [], []
    for i in range(11):
        height, width = (60, 90) if i % 3 else (90, 60)
        image = np.zeros((height, width, 3), np.uint8)
        for j in range(2):
            x, y, w, h = (
                30 * j + int(rng.integers(0, 5)),
                int(rng.integers(0, 20)),
                20,
                int(rng.integers(15, 40)),
            )
            image[y : y + h, x : x + w, j] = 255
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 5,
                    "category_id": 3 + j,
                    "iscrowd": 0,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        cv2.imwrite(str(root / f"{i}.png"), image[..., ::-1])
        images.append({"id": i + 5, "width": width, "height": height, "file_name": f"{i}.png"})
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}],
    }
    return Annotated("squares", [str(root / i["file_name"]) for i in images], truth)


def test_boxes_and_masks_stay_on_their_objects(squares):
    data, sides, left = Views(squares, SCHEDULE, True, outlines=True), Counter(), Counter()
    for step in range(8):
        for row in range(len(squares)):
            view = data.view(step, row)
            sides[min(view.image.shape[:2])] += 1
            assert view.labels.tolist() == [1, 2] and view.masks.shape == (2, *view.image.shape[:2])
            for j in range(2):
                bright = view.image[..., j].numpy() >= 128
                ys, xs = np.nonzero(bright)
                x0, y0, x1, y1 = view.boxes[j].tolist()
                assert (
                    abs(
                        np.array([x0, y0, x1, y1])
                        - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                    ).max()
                    < 0.8
                )
                mask = view.masks[j].numpy().astype(bool)
                assert (mask & bright).sum() / (mask | bright).sum() > 0.9
            left[bool(view.boxes[0, 0] < view.boxes[1, 0])] += 1
    assert set(sides) == {48, 64, 80} and min(sides.values()) > 15
    assert min(left.values()) > 30  # about half are flipped


def test_run_lengths_are_the_polygons_masks(squares):
    from pycocotools import mask as masks

    coded = [dict(a) for a in squares.truth["annotations"]]
    for a in coded:
        height, width = next(
            (i["height"], i["width"]) for i in squares.truth["images"] if i["id"] == a["image_id"]
        )
        x, y, w, h = a["bbox"]
        pixels = np.zeros((height, width), np.uint8)
        pixels[y : y + h, x : x + w] = 1
        flat = pixels.T.ravel()
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
        a["segmentation"] = {"size": [height, width], "counts": [0, *counts] if flat[0] else counts}
        assert (masks.decode(masks.frPyObjects(a["segmentation"], height, width)) == pixels).all()
    other = Annotated("coded", squares.files, squares.truth | {"annotations": coded})
    for row in range(4):
        one, two = (Views(s, SCHEDULE, True, True).view(3, row) for s in (squares, other))
        assert (one.image == two.image).all() and (one.boxes == two.boxes).all()
        assert (one.masks != two.masks).float().mean() < 0.03


def test_views_are_by_seed_step_and_row(squares):
    def views(seed, step):
        data = Views(squares, replace(SCHEDULE, seed=seed), True)
        return [data.view(step, row).boxes for row in range(len(squares))]

    def same(a, b):
        return all((x == y).all() for x, y in zip(a, b, strict=True))

    assert same(views(0, 1), views(0, 1))
    assert not same(views(0, 1), views(0, 2)) and not same(views(0, 1), views(1, 1))


def test_test_views_are_whole_and_have_no_objects(squares):
    view = Views(squares, SCHEDULE, False).view(0, 1)
    assert view.image.shape == (64, 96, 3) and view.original == (60, 90) and len(view.boxes) == 0


def test_images_that_cannot_be_used_are_named(squares, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((10, 10, 3), np.uint8))
    for name, message in (("bad.png", "bad.png"), ("small.png", "10x10"), ("gone.png", "gone.png")):
        broken = Annotated("x", [str(tmp_path / name), *squares.files[1:]], squares.truth)
        with pytest.raises(UsageError, match=message):
            Views(broken, SCHEDULE, True).view(0, 0)


def test_order_is_the_same_however_many_processes_and_from_any_step(squares, monkeypatch):
    whole = list(Order(squares, SCHEDULE, 40))
    assert [step for step, _ in (b[0] for b in whole)] == list(range(40))
    for batch in whole:
        assert len(batch) == 2 and len({squares.size(row) for _, row in batch}) == 1
    counts = Counter(row for batch in whole for _, row in batch)
    assert max(counts.values()) - min(counts.values()) <= 2 and len(counts) == 11
    assert list(Order(squares, SCHEDULE, 40, start=13)) == whole[13:]
    assert list(Order(squares, replace(SCHEDULE, seed=1), 40)) != whole
    monkeypatch.setattr(module.distributed, "world", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(module.distributed, "rank", lambda rank=rank: rank)
        parts.append(list(Order(squares, SCHEDULE, 40)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_sizes_are_detectron2s():
    # ResizeShortestEdge: the short side to 800 unless the long one would pass 1333; halves round up
    assert resized(375, 500, 800, 1333) == (800, 1067)
    assert resized(500, 333, 800, 1333) == (1201, 800)
    assert resized(300, 900, 800, 1333) == (444, 1333)


def test_schedules_are_mocos():
    voc, coco = SCHEDULES["voc_24k"], SCHEDULES["coco_1x"]
    assert (voc.iterations, voc.drops, voc.warmup, voc.lr, voc.batch) == (
        24000,
        (18000, 22000),
        100,
        0.02,
        16,
    )
    assert (
        voc.scales == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
        and voc.test_scale == 800
    )
    assert (coco.iterations, coco.drops, coco.warmup) == (90000, (60000, 80000), 1000)
    assert coco.scales == (640, 672, 704, 736, 768, 800) and coco.longest == 1333
    rates = [voc.lr * voc.factor(step) for step in (0, 50, 100, 17999, 18000, 21999, 22000, 23999)]
    np.testing.assert_allclose(rates, [2e-5, 0.01001, 0.02, 0.02, 0.002, 0.002, 2e-4, 2e-4])
    half = voc.with_batch(8)
    assert (half.iterations, half.drops, half.lr, half.warmup, half.batch) == (
        48000,
        (36000, 44000),
        0.01,
        200,
        8,
    )
    for wrong in (
        {"iterations": 0},
        {"lr": -1},
        {"scales": ()},
        {"scales": (8,)},
        {"test_scale": 2000},
    ):
        with pytest.raises(UsageError):
            replace(voc, **wrong).check()
