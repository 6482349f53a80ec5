"""Maps of a network whose decision comes from a known place; neighbours against plain loops."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import spatial, stats
from torch import nn

from data.synthetic.dataset import Scenes, make
from evaluate.diagnose import heat, neighbours
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.localisation import chance, heatmap_statistics, percent
from evaluate.diagnose.parts import Parts, Split, find_masks
from evaluate.features import Encoder
from evaluate.probes.linear import fit_probe
from tests.evaluate.folders import evaluate
from train.features import Labelled, forward
from train.network import backbone

SIDE = 32


class Colours(nn.Module):
    """Sees red, green and blue places, and describes an image by the red and green ones alone."""

    def __init__(self):
        super().__init__()
        self.layer1 = self.layer2 = self.layer3 = nn.Identity()
        see = nn.Conv2d(3, 3, 1)
        see.weight.data = (1.5 * torch.eye(3) - 0.5)[..., None, None]
        see.bias.data.fill_(-0.5)
        self.layer4 = nn.Sequential(nn.AvgPool2d(4), see, nn.ReLU())

    def forward(self, x):
        means = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))[:, :2]
        # without a rest, more of a colour would not change the direction
        return F.pad(means, (0, 1), value=0.1)


def test_maps_lie_where_the_decision_comes_from():
    """Pictures with a red or green patch, which an encoder describes, and a blue one."""
    encoder = Encoder(Colours().requires_grad_(False).eval(), SIDE, torch.device("cpu"))
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    pictures = np.full((40, SIDE, SIDE, 3), 115, np.uint8)
    patches, others = np.zeros((2, 40, SIDE, SIDE), np.uint8)
    for picture, patch, other, label in zip(pictures, patches, others, labels, strict=True):
        y, x = 4 * rng.integers(0, 6, 2)
        patch[y : y + 8, x : x + 8] = 255
        other[(y + 16) % SIDE : (y + 16) % SIDE + 8, x : x + 8] = 255
        # brighter than the patch: it attracts a map that ignores the decision
        picture[other > 0] = (20, 20, 250)
        picture[patch > 0] = (220, 40, 40) if label == 0 else (40, 220, 40)
    crops = torch.from_numpy(pictures)
    assert heat.stage_of(encoder) == ("layer4", 8)
    assert heat.stage_of(replace(encoder, size=12)) == ("layer3", 12)  # the last has 3x3
    features = forward(encoder.model, crops, encoder.device)
    classes = torch.from_numpy(labels)
    bank = F.normalize(torch.tensor([[2, 0, 0.1], [0, 2, 0.1]]), dim=1)
    rows = torch.arange(2).repeat(40, 1)
    scores = {"knn": heat.knn_score(bank, torch.arange(2), rows, classes, 0.07)}
    scores["linear"] = heat.linear_score(fit_probe(features.numpy(), labels, 2), classes)
    for kind, score in scores.items():
        for method, maps in heat.heat(encoder, crops, score, "layer4").items():
            assert maps.shape == (40, SIDE, SIDE) and maps.min() >= 0
            assert np.allclose(maps.sum((1, 2)), 1, atol=1e-4)
            on, off = (percent(heatmap_statistics(maps, masks)) for masks in (patches, others))
            assert on["pointing"] == 100 and off["pointing"] == 0, (kind, method)
            assert on["share"] > 60 > 10 > off["share"], (kind, method)
            assert on["iou_area"] > 50 and on["without_map"] == 0
    bank = F.normalize(torch.from_numpy(np.random.default_rng(1).normal(size=(9, 3))))
    kinds, rows = torch.tensor([0, 1, 2] * 3), torch.tensor([[0, 1, 3], [8, 6, 0], [4, 5, 1]])
    features, decided = features[:3].double(), torch.tensor([0, 0, 1])
    logs = heat.knn_score(bank, kinds, rows, decided, 0.5)(features)
    for x, near, kind, log in zip(F.normalize(features), rows, decided, logs, strict=True):
        vote = sum(torch.exp(x @ bank[row] / 0.5) for row in near if kinds[row] == kind)
        assert float(log) == pytest.approx(float(vote.log()))


def test_numbers_of_a_map_by_hand():
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[:, :2, :2] = 255
    maps = np.zeros((2, 4, 4))
    maps[0, [0, 0, 3], [0, 1, 3]] = 4, 1, 3
    # above half of 4 are (0, 0) and (3, 3); the four largest are those, (0, 1) and (0, 2)
    expected = {"share": 5 / 8, "pointing": 1, "iou": 1 / 5, "iou_area": 2 / 6}
    statistics = heatmap_statistics(maps, mask)
    assert {name: values[0] for name, values in statistics.items()} == expected
    numbers = percent(statistics)
    assert numbers["without_map"] == 1 and numbers["share"] == 62.5
    assert chance(mask) == {"share": 25, "pointing": 25, "centre": 0}


def test_neighbours_against_scipy_and_by_hand():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(60, 5)), rng.normal(size=(30, 5))
    chosen, distances = rng.integers(0, 60, 30), spatial.distance.cdist(queries, bank, "cosine")
    ranks = neighbours.ranks(bank, queries, chosen)
    assert np.allclose(ranks, (distances < distances[np.arange(30), chosen][:, None]).mean(1))
    split = neighbours.split(np.array([0, 0.04, 0.2, 0.5]), np.array([0.1, 0.04, 0.3, 0.1]))
    expected = {"same_background": 50, "same_object": 25, "background_rather": 62.5}
    assert split == pytest.approx(expected | {"background_rank": 12, "object_rank": 10})
    bank_kinds, bank_labels = np.array(["a", "a", "b"]), np.array([0, 1, 1])
    shares = neighbours.share_of_kind(["a", "b"], [0, 1], bank_kinds, bank_labels)
    assert shares.tolist() == [0.5, 0]
    same = np.arange(30) % 3 == 0
    auc = stats.mannwhitneyu(ranks[~same], ranks[same]).statistic / (10 * 20)
    expected = {"known_same_background": 100 / 3, "known_chance": 25, "estimate_auc": auc}
    assert neighbours.known(same, np.full(30, 0.25), ranks) == pytest.approx(expected)


def test_two_networks_on_the_embedded_data(tmp_path, capsys):
    make(tmp_path / "data", Scenes(train=120, probe=10, test=40, size=32))
    files = [str(tmp_path / f"{stem}.pth") for stem in ("small_stride2", "imagenet")]
    for file in files:
        torch.save(backbone("resnet10", Path(file).stem, 4).state_dict(), file)
    out = tmp_path / "new" / "d.json"
    options = f"--data {tmp_path}/data --json {out} --k 5 --examples 2 --limit 40"
    result = evaluate(f"diagnose --runs {' '.join(files)} {options}")
    printed = capsys.readouterr().out
    assert "background_rather" in printed and f"\nchance, {files[0]} " in printed
    assert out.with_suffix(".png").stat().st_size > 5000 and "pictures" not in result
    assert result["protocol"]["queries"] == "original" and result["protocol"]["query_images"] == 40
    for values in result["runs"].values():
        numbers, split = values["accuracy"], values["neighbours"]
        assert {"pointing", "iou", "same_background", "knn", "linear"} <= set(numbers)
        assert 0 < numbers["share"] < 100 and split["nearest_wrong"] > 10
        assert split["known_chance"] == pytest.approx(2.2, abs=1.5)  # 90 % are on their own kind
        assert (split["estimate_auc"] is None) == (split["known_same_background"] in (0, 100))
    small, large = (values["chance"] for values in result["runs"].values())
    assert small != large and "chance" not in result  # each of its own size
    assert [at.split()[-2] for at in result["protocol"]["maps_at"].values()] == ["32", "224"]


def test_a_run_has_its_own_numbers_unless_its_folder_takes_none(trained, data, images, tmp_path):
    masks, own = images / "masks", Path(trained, "diagnose.json")
    line = f"diagnose --runs {trained} --data {data} --masks {masks} --bank-masks {masks} --limit 4"
    line += f" --examples 0 --workers 0 --json {tmp_path}/d.json"
    result, numbers = evaluate(line), json.loads(own.read_text())
    assert numbers["run"] == trained and numbers["evaluation"] == "diagnose"
    assert result["runs"][trained].items() <= numbers.items()
    assert result["chance"] == numbers["chance"]
    own.unlink()
    own.mkdir()  # nothing can be written there
    again = evaluate(line)
    own.rmdir()
    assert again == result


def test_masks_of_displayed_pictures_missing_ones_and_of_the_queries_alone(tmp_path):
    arguments, masks = Arguments(("run",), str(tmp_path)), tmp_path / "masks"
    for folder, bank_masks in (("val", None), ("train", str(masks))):
        (masks / folder).mkdir(parents=True)
        resolved = arguments.resolve(embedded=False)
        assert (resolved.masks, resolved.bank_masks) == (str(masks), bank_masks)
    truth, val = np.zeros((40, 60), np.uint8), tmp_path / "val"
    truth[10:30, 20:50] = 255
    for folder in (val / "a", masks / "a"):
        folder.mkdir(parents=True)
    picture = Image.new("RGB", (60, 40))
    picture.getexif()[0x0112] = 6
    for name in ("0.jpg", "1.jpg"):
        picture.save(val / "a" / name, exif=picture.getexif())
    Image.fromarray(np.rot90(truth, -1)).save(masks / "a/0.png")
    found = find_masks(str(masks), Labelled(str(val), 24, ["a"]), np.arange(2))
    assert np.array_equal(found[0], truth) and found[1] is None


def test_masks_of_caches_and_folders_and_the_parts_of_an_image(images, truth_cache):
    labelled, rows = Labelled(str(images / "train"), 48), np.arange(4)
    cached = find_masks(str(truth_cache), labelled, rows)
    split = Split(labelled, rows, find_masks(str(images / "masks"), labelled, rows))
    for i, mask in enumerate(split.masks):
        small = cv2.resize(mask, (32, 32), interpolation=cv2.INTER_AREA)
        assert np.array_equal(small, cached[i])
        image, object_ = labelled.read(i), Parts(split, 48, "object")[i]
        background = Parts(split, 48, "background")[i].astype(int)
        inside, far = mask > 0, cv2.dilate(mask, np.ones((9, 9))) == 0
        assert np.array_equal(object_[inside], image[inside])
        assert np.ptp(object_[far], axis=0).max() == 0
        assert np.array_equal(background[far], image[far])
        # the bright disc is gone: what is in its place looks like the noise around it
        assert np.abs(background[inside].mean(0) - image[far].mean(0)).max() < 15
