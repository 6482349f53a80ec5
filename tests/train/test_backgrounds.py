"""Backgrounds against a literal Pillow version, and what they depend on: the stream of pasting
alone."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.base import Folder
from data.sources.images import open_images
from tests.train.runs import config, losses
from tests.train.test_copy_paste import SIZE, cases, pillow_crop
from train.backgrounds import FILL, BackgroundDraw, Donors, fill_in, make_donors, under
from train.config import PasteSettings
from train.copy_paste import copy_paste
from train.crop import Box
from train.dataset import open_training_set
from train.loader import Order, Pairs
from train.loop import train
from train.parameters import COVERAGE, PASTED
from train.streams import PASTE, stream
from train.views import LEAST_SHARE
from train.workers import Loader, WorkerError

KINDS = ("texture", "image", "random", "swap")
ALWAYS = PasteSettings(paste_p=1.0, soften_p=0.0)


def settings(images, cache, **changes):
    given = {"paste_p": 0.5, "batch": 8, "epochs": 1} | changes
    if given.get("background") == "texture":
        given |= {"textures": str(images / "masks")}
    return config(images, cache, "", **given)


def loader(images, cache, rank=0, world=1, **changes):
    made = settings(images, cache, **changes)
    data = Pairs(made, open_training_set(made))
    return Loader(data, Order(80, 8, 1, 0, 0, rank, world), made.runtime.workers)


def joined(batches) -> dict:
    batches = list(batches)
    dims = {"views": 1, "parameters": 1, "index": 0}
    return {k: torch.cat([b[k] for b in batches], dim) for k, dim in dims.items()}


def cover(picture: Image.Image, box: Box, left: float, top: float) -> Image.Image:
    """As the authors' loader: scaled until it covers the image, and cut to the image's size."""
    scale = max(box.width / picture.width, box.height / picture.height)
    x, y = left * (picture.width - box.width / scale), top * (picture.height - box.height / scale)
    right = min(x + box.width / scale, picture.width)
    where = (x, y, right, min(y + box.height / scale, picture.height))
    return picture.resize((box.width, box.height), Image.BILINEAR, box=where)


@pytest.mark.parametrize("filled", [False, True])
def test_nearly_the_same_picture_as_cover_paste_and_crop(shared, tmp_path, filled):
    """Donors are other photographs: JPEGs, some larger than a view needs. With `filled`, their
    foreground is gone."""
    content = [(shared / "ecssd" / "images" / f"{i:04d}.jpg").read_bytes() for i in range(101, 161)]
    true = [
        cv2.imread(str(shared / "ecssd" / "masks" / f"{i:04d}.png"), 0) for i in range(101, 161)
    ]
    squashed = [cv2.resize(m, (128, 128), interpolation=cv2.INTER_AREA) for m in true]

    class Photographs:
        root, read = "ecssd", staticmethod(lambda i: content[i])

        def mask(self, row):
            return squashed[row]

    rows = np.arange(60) if filled else None
    donors = Donors(Photographs(), np.arange(60), Photographs() if filled else None, rows)
    pastes, resamplers = [], []
    for i, (image, mask, box) in enumerate(cases(shared, 60)):
        crop = np.asarray(pillow_crop(Image.fromarray(image), box), np.uint8)
        background = BackgroundDraw(box, False, SIZE, -1, donors)
        ours, _ = copy_paste(ALWAYS, stream(PASTE, 0, 0, i), crop, mask, box, False, background)
        rng = stream(PASTE, 0, 0, i)
        rng.random(3)
        which, left, top = rng.random(3)
        picture = Image.open(io.BytesIO(content[int(which * 60)])).convert("RGB")
        if filled:  # the hole as we make it, but put into the whole picture
            hole = Image.fromarray(squashed[int(which * 60)]).resize((FILL, FILL), Image.BOX)
            hole = cv2.dilate(
                np.minimum(2 * np.asarray(hole).astype(int), 255).astype(np.uint8), np.ones((3, 3))
            )
            small = fill_in(np.asarray(picture.resize((FILL, FILL), Image.BOX)), hole)
            patch, hole = (
                Image.fromarray(x).resize(picture.size, Image.BILINEAR) for x in (small, hole)
            )
            picture = Image.composite(patch, picture, hole)
        whole = cover(picture, box, left, top)
        alpha = Image.fromarray(mask).resize(whole.size, Image.BILINEAR)
        literal = pillow_crop(Image.composite(Image.fromarray(image), whole, alpha), box)
        pastes.append(np.abs(ours.astype(int) - literal))
        # a background moved by half a pixel of its own is the same background
        x, y, w, h = under(box, *picture.size, left, top)
        moved = picture.resize(
            (SIZE, SIZE),
            Image.BILINEAR,
            box=(x, y, min(x + w, picture.width), min(y + h, picture.height)),
        )
        again = picture.crop((round(x), round(y), round(x + w), round(y + h))).resize(
            (SIZE, SIZE), Image.BILINEAR
        )
        resamplers.append(np.abs(np.asarray(moved).astype(int) - np.asarray(again)))
    assert np.mean(pastes) <= np.mean(resamplers) + 1
    assert np.percentile(pastes, 99) <= np.percentile(resamplers, 99) + 5
    one, other = (
        donors.draw(stream(PASTE, i), Box(0, 0, 300, 300, 300, 300), SIZE, -1) for i in (1, 2)
    )
    assert np.abs(one.background.astype(int) - other.background).mean() > 20


def test_filling_keeps_what_is_known_and_stays_within_it():
    rng = np.random.default_rng(0)
    gone = np.zeros((FILL, FILL), np.uint8)
    gone[20:40, 24:44] = 255
    hole = gone > 0
    noisy = rng.integers(60, 120, (FILL, FILL, 3), dtype=np.uint8)
    noisy[hole] = (255, 0, 255)
    out = fill_in(noisy, gone)
    assert np.array_equal(out[~hole], noisy[~hole])
    assert out[hole].min() >= 60 and out[hole].max() < 120  # nothing of the magenta is left
    ramp = np.broadcast_to(np.linspace(20, 200, FILL).round()[:, None], (FILL, FILL, 3))
    ramp = ramp.astype(np.uint8)
    filled = fill_in(np.where(hole[..., None], np.uint8(0), ramp), gone).astype(int)
    assert np.abs(filled - ramp).max() <= 18  # a slope of 180 goes on through the hole
    everything = fill_in(noisy, np.full_like(gone, 255))
    assert (everything == noisy.mean((0, 1)).round()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_backgrounds_depend_on_neither_workers_nor_processes(images, truth_cache, kind):
    one = joined(loader(images, truth_cache, background=kind))
    other = joined(loader(images, truth_cache, background=kind, workers=2))
    assert one["parameters"][:2, :, PASTED].mean() > (0.2 if kind == "swap" else 0.4)
    assert all(torch.equal(one[k], other[k]) for k in one) and one.keys() == other.keys()
    parts = [
        list(loader(images, truth_cache, background=kind, rank=rank, world=2)) for rank in range(2)
    ]
    together = joined([part for batch in zip(*parts, strict=True) for part in batch])
    assert all(torch.equal(one[k], together[k]) for k in one)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_differ_in_the_background_see_the_same_crops_and_colours(
    images, truth_cache, kind
):
    grey = joined(loader(images, truth_cache, paste_views="key" if kind == "swap" else "both"))
    other = joined(loader(images, truth_cache, background=kind))
    parameters, views = other["parameters"][:2], other["views"][:2]
    assert torch.equal(grey["parameters"], parameters)
    pasted = grey["parameters"][..., PASTED] > 0
    assert torch.equal(grey["views"][~pasted], views[~pasted])
    changed = (grey["views"][pasted] != views[pasted]).flatten(1).any(1)
    assert changed.float().mean() > 0.9


def test_views_that_may_be_pasted(images, truth_cache):
    share = {}
    for views in ("both", "query", "key"):
        batch = joined(loader(images, truth_cache, paste_views=views))
        share[views] = batch["parameters"][..., PASTED].mean(1)
    assert share["query"][1] == share["key"][0] == 0
    assert share["query"][0] == share["both"][0] > 0.3 and share["key"][1] == share["both"][1] > 0.3


def test_swaps_negative_is_the_query_outside_of_its_foreground(images, truth_cache):
    whole = {"paste_p": 1.0, "soften_p": 0.0, "flip_p": 0.0, "crop": (1.0, 1.0)}
    batch = joined(loader(images, truth_cache, background="swap", **whole))
    query, _, negative = batch["views"]
    counts = batch["parameters"][2, :, PASTED] > 0
    assert counts.float().mean() > 0.8 and not batch["parameters"][0, :, PASTED].any()
    assert torch.equal(negative[~counts], query[~counts])
    share = batch["parameters"][2, :, COVERAGE]
    assert (share[counts] >= LEAST_SHARE).all() and (share[~counts] == 0).all()
    cache, found = Cache(truth_cache), open_images(images / "train")
    rows = cache.require(found.paths)
    for i, index in enumerate(batch["index"].tolist()):
        # 32 px, as the views: no crop between them
        mask = torch.from_numpy(cache.mask(rows[index]).copy())
        if counts[i] and (batch["views"][0, i].shape[:2] == mask.shape):
            assert torch.equal(negative[i][mask == 0], query[i][mask == 0])
            inside = mask == 255
            assert (negative[i][inside] != query[i][inside]).any()


def test_an_image_is_never_its_own_background_and_broken_ones_are_passed_over(images):
    found = open_images(images / "train")
    first, second = (
        cv2.imread(str(images / "train" / p.decode()))[..., ::-1] for p in found.paths[:2]
    )
    box = Box(0, 0, 48, 48, 48, 48)
    drawn = [
        Donors(found, np.arange(2)).draw(stream(PASTE, 0, 0, i), box, 48, own=0).picture
        for i in range(20)
    ]
    assert all(np.array_equal(picture, second) for picture in drawn)
    drawn = [
        Donors(found, np.arange(2), apart=False).draw(stream(PASTE, 0, 0, i), box, 48, 0).picture
        for i in range(20)
    ]
    assert {p.tobytes() for p in drawn} == {first.tobytes(), second.tobytes()}

    class Broken(Folder):
        def read(self, row):
            return b"broken" if row == 0 else super().read(row)

    broken = Broken(found.root, found.paths)
    assert np.array_equal(
        Donors(broken, np.arange(2), apart=False).draw(stream(PASTE, 0), box, 48, 9).picture, second
    )
    with pytest.raises(WorkerError, match="100 backgrounds in a row"):
        Donors(broken, np.array([0, 0]), apart=False).draw(stream(PASTE, 0), box, 48, 9)


def test_pools_follow_the_quality_columns(images, truth_cache):
    found, cache = open_images(images / "train"), Cache(truth_cache)
    rows = cache.require(found.paths)
    coverage = np.array([cache.mask(r).mean() / 255 for r in rows])
    quarter = settings(images, truth_cache, background="image", pool=0.25).paste
    pool = make_donors(quarter, found, cache, rows).pool
    assert len(pool) == 20 and coverage[pool].max() <= np.delete(coverage, pool).min() + 1e-3
    cache.status = cache.status.copy()
    cache.status[rows[pool[:5]]] = 1
    again = make_donors(quarter, found, cache, rows).pool
    assert not set(again) & set(pool[:5]) and len(again) == round(0.25 * 75)
    every = make_donors(dataclasses.replace(quarter, background="random"), found, cache, rows)
    assert set(every.pool) == set(range(80)) - set(pool[:5]) and every.cache is cache
    with pytest.raises(UsageError, match="two backgrounds are the least"):
        make_donors(dataclasses.replace(quarter, pool=0.001), found, cache, rows)


@pytest.mark.parametrize("method", ["moco", "simclr"])
def test_swap_trains_and_resumes_exactly(images, truth_cache, tmp_path, method):
    whole, parts = (
        config(
            images, truth_cache, tmp_path / n, background="swap", epochs=1, method=method, splits=1
        )
        for n in ("whole", "parts")
    )
    assert train(whole)
    train(parts, stop_at=2)
    assert train(parts)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    picture = cv2.imread(str(tmp_path / "whole" / "first_batch.png"))
    assert picture.shape[0] == 2 * (3 * 38 + 8)  # the negatives are shown below the views
