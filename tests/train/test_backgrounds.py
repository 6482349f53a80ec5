"""Backgrounds against a literal Pillow version; they depend on the stream of pasting alone."""

import io
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data.cache.reader import Cache
from data.sources.images import open_images
from tests.conftest import refused
from tests.train.runs import config, losses
from tests.train.test_copy_paste import SIZE, cases, pillow_crop
from train.backgrounds import FILL, BackgroundDraw, Donors, fill_in, make_donors, remove
from train.config import PasteSettings
from train.copy_paste import copy_paste
from train.crop import Box
from train.dataset import open_training_set
from train.loader import Order, Pairs
from train.loop import train
from train.parameters import COVERAGE, PASTED
from train.streams import PASTE, stream
from train.views import LEAST_SHARE
from train.workers import Loader


def settings(images, cache, **changes):
    textures = str(images / "masks") if changes.get("background") == "texture" else None
    given = {"paste_p": 0.5, "batch": 8, "epochs": 1, "textures": textures} | changes
    return config(images, cache, "", **given)


def epoch(images, cache, rank=0, world=1, **changes) -> dict[str, torch.Tensor]:
    made = settings(images, cache, **changes)
    order = Order(80, 8, 1, 0, 0, rank, world)
    batches = list(Loader(Pairs(made, open_training_set(made)), order, made.runtime.workers))
    dims = {"views": 1, "parameters": 1, "index": 0}
    return {k: torch.cat([b[k] for b in batches], dim) for k, dim in dims.items()}


def cover(picture: Image.Image, box: Box, left: float, top: float) -> Image.Image:
    """As the authors' loader: scaled until it covers the image, and cut to the image's size."""
    scale = max(box.width / picture.width, box.height / picture.height)
    x, y = left * (picture.width - box.width / scale), top * (picture.height - box.height / scale)
    right = min(x + box.width / scale, picture.width)
    where = (x, y, right, min(y + box.height / scale, picture.height))
    return picture.resize((box.width, box.height), Image.BILINEAR, box=where)


def test_nearly_the_same_picture_as_cover_paste_and_crop(shared):
    content = [(shared / "ecssd" / "images" / f"{i:04d}.jpg").read_bytes() for i in range(101, 161)]

    class Photographs:
        root, read = "ecssd", staticmethod(lambda i: content[i])

    donors, differences = Donors(Photographs(), np.arange(60)), []
    always = PasteSettings(paste_p=1.0, soften_p=0.0)
    for i, (image, mask, box) in enumerate(cases(shared, 60)):
        crop = np.asarray(pillow_crop(Image.fromarray(image), box), np.uint8)
        background = BackgroundDraw(box, False, SIZE, -1, donors)
        ours, _ = copy_paste(always, stream(PASTE, 0, 0, i), crop, mask, box, False, background)
        rng = stream(PASTE, 0, 0, i)
        rng.random(3)
        which, left, top = rng.random(3)
        picture = Image.open(io.BytesIO(content[int(which * 60)])).convert("RGB")
        whole = cover(picture, box, left, top)
        alpha = Image.fromarray(mask).resize(whole.size, Image.BILINEAR)
        literal = pillow_crop(Image.composite(Image.fromarray(image), whole, alpha), box)
        differences.append(np.abs(ours.astype(int) - literal))
    # 1.8 and 19 grey levels by the resamplers alone
    assert np.mean(differences) < 2.2 and np.percentile(differences, 99) < 24


def test_filling_keeps_what_is_known_and_stays_within_it():
    gone = np.zeros((FILL, FILL), np.uint8)
    gone[20:40, 24:44] = 255
    hole = gone > 0
    noisy = np.random.default_rng(0).integers(60, 120, (FILL, FILL, 3), dtype=np.uint8)
    noisy[hole] = (255, 0, 255)
    out = fill_in(noisy, gone)
    assert np.array_equal(out[~hole], noisy[~hole])
    assert out[hole].min() >= 60 and out[hole].max() < 120  # nothing of the magenta is left
    ramp = np.broadcast_to(np.linspace(20, 200, FILL).round()[:, None, None], noisy.shape)
    filled = fill_in(np.where(hole[..., None], 0, ramp).astype(np.uint8), gone)
    assert np.abs(filled - ramp).max() <= 18  # a slope of 180 goes on through the hole
    everything = fill_in(noisy, np.full_like(gone, 255))
    assert (everything == noisy.mean((0, 1)).round()).all()
    # the same in a crop of the picture
    crop, box = noisy[16:48, 8:56], Box(8, 16, 48, 32, FILL, FILL)
    crop = cv2.resize(crop, (96, 96), interpolation=cv2.INTER_NEAREST)
    out, hole = remove(noisy, gone, crop, box), (crop == (255, 0, 255)).all(2)
    near = cv2.dilate(hole.astype(np.uint8), np.ones((19, 15))) > 0
    assert np.array_equal(out[~near], crop[~near]) and near.mean() < 0.6
    assert out[hole].min() >= 60 and out[hole].max() < 120


@pytest.mark.parametrize("kind", ["texture", "image", "random", "swap"])
def test_backgrounds_depend_on_their_stream_alone(images, truth_cache, kind):
    one = epoch(images, truth_cache, background=kind)
    other = epoch(images, truth_cache, background=kind, workers=2)
    halves = [epoch(images, truth_cache, background=kind, rank=r, world=2) for r in range(2)]
    for key, value in one.items():
        assert torch.equal(value, other[key])
        at = value.ndim > 1  # of each batch of 8 a process has four in a row
        parts = [half[key].unflatten(int(at), (-1, 4)) for half in halves]
        assert torch.equal(value, torch.cat(parts, at + 1).flatten(int(at), at + 1))
    grey = epoch(images, truth_cache, paste_views="key" if kind == "swap" else "both")
    parameters, views = one["parameters"][:2], one["views"][:2]
    assert torch.equal(grey["parameters"], parameters)
    pasted = parameters[..., PASTED] > 0
    assert pasted.float().mean() > (0.2 if kind == "swap" else 0.4)
    assert torch.equal(grey["views"][~pasted], views[~pasted])
    changed = (grey["views"][pasted] != views[pasted]).flatten(1).any(1)
    assert changed.float().mean() > 0.9


def test_swaps_negative_is_the_query_outside_of_its_foreground(images, truth_cache):
    whole = {"paste_p": 1.0, "soften_p": 0.0, "flip_p": 0.0, "crop": (1.0, 1.0)}
    batch = epoch(images, truth_cache, background="swap", **whole)
    query, _, negative = batch["views"]
    counts = batch["parameters"][2, :, PASTED] > 0
    assert counts.float().mean() > 0.8 and not batch["parameters"][0, :, PASTED].any()
    assert torch.equal(negative[~counts], query[~counts])
    share = batch["parameters"][2, :, COVERAGE]
    assert (share[counts] >= LEAST_SHARE).all() and (share[~counts] == 0).all()
    # masks have 32 px, as the views: no crop between them
    masks = torch.from_numpy(np.stack([Cache(truth_cache).mask(i) for i in batch["index"]]))
    same = (negative == query).all(-1)
    assert same[counts][masks[counts] == 0].all()
    assert not (same | (masks < 255))[counts].flatten(1).all(1).any()


def test_an_image_is_never_its_own_background_and_broken_ones_are_passed_over(images, tmp_path):
    box, files = Box(0, 0, 48, 48, 48, 48), sorted((images / "train" / "class0").iterdir())[:2]
    (tmp_path / "0.png").write_bytes(b"broken")
    shutil.copy(files[1], tmp_path / "1.png")
    for own, folder in ((0, files[0].parent), (2, tmp_path)):
        donors = Donors(open_images(folder), np.arange(2))
        for i in range(20):
            draw = donors.draw(stream(PASTE, 0, 0, i), box, 48, own=own)
            assert np.array_equal(draw.picture, cv2.imread(str(files[1]))[..., ::-1])
    broken = Donors(donors.images, np.array([0, 0]))
    assert "100 backgrounds in a row" in refused(broken.draw, stream(PASTE, 0), box, 48, own=2)


def test_pools_follow_the_quality_columns(images, truth_cache):
    found, cache, pools = open_images(images / "train"), Cache(truth_cache), []
    coverage = np.array([cache.mask(row).mean() / 255 for row in range(80)])
    cache.status = (np.arange(80) < 5).astype(int)
    for kind in ("image", "random"):
        paste = settings(images, truth_cache, background=kind, pool=0.25).paste
        pools.append(set(make_donors(paste, found, cache, np.arange(80)).pool))
    assert pools[1] == set(range(5, 80)) and len(pools[0]) == round(0.25 * 75)
    assert coverage[[*pools[0]]].max() <= coverage[[*pools[1] - pools[0]]].min() + 1e-3


def test_swap_trains_and_resumes_exactly(images, truth_cache, tmp_path):
    swap = {"background": "swap", "epochs": 1, "method": "simclr", "splits": 1}
    whole, parts = (config(images, truth_cache, tmp_path / n, **swap) for n in ("whole", "parts"))
    assert train(whole) and not train(parts, stop_at=2) and train(parts)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    picture = cv2.imread(str(tmp_path / "whole" / "first_batch.png"))
    assert picture.shape[0] == 2 * (3 * 38 + 8)  # the negatives are shown below the views
