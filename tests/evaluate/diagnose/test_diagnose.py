"""The diagnosis: maps of a network whose decision is known to come from one place; neighbours
against plain loops."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.cli import UsageError
from data.synthetic.backdrops import draw_background
from data.synthetic.dataset import OWN_KIND, Scenes, _rng, background_kinds, draw, make
from data.synthetic.objects import CLASSES, draw_object
from evaluate.diagnose import heat, looks, neighbours
from evaluate.diagnose.command import main, run
from evaluate.diagnose.figure import over
from evaluate.diagnose.parts import Masks, Parts
from evaluate.features import Encoder, Labelled, forward, load_encoder
from evaluate.probes.linear import fit_probe
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
        found = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))[:, :2]
        return F.pad(
            found, (0, 1), value=0.1
        )  # without a rest, more of a colour would not change the direction


@pytest.fixture(scope="module")
def seen():
    """An encoder that looks at red and green; pictures with a red or green patch and a blue one,
    and both patches."""
    encoder = Encoder(Colours().requires_grad_(False).eval(), SIDE, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pictures, patches, others, labels = (
        np.full((40, SIDE, SIDE, 3), 115, np.uint8),
        *np.zeros((2, 40, SIDE, SIDE), np.uint8),
        np.arange(40) % 2,
    )
    for picture, patch, other, label in zip(pictures, patches, others, labels, strict=True):
        y, x = 4 * rng.integers(0, 6, 2)
        patch[y : y + 8, x : x + 8] = 255
        other[(y + 16) % SIDE : (y + 16) % SIDE + 8, x : x + 8] = 255
        picture[other > 0] = (
            20,
            20,
            250,
        )  # brighter than the patch: it draws a map that knows nothing of the decision
        picture[patch > 0] = (220, 40, 40) if label == 0 else (40, 220, 40)
    return encoder, torch.from_numpy(pictures), patches, others, labels


def test_maps_lie_where_the_decision_comes_from(seen):
    encoder, crops, patches, others, labels = seen
    assert heat.stage_of(encoder) == ("layer4", 8)
    features = forward(encoder, crops)
    classes = torch.from_numpy(labels)
    bank = F.normalize(
        torch.tensor([[2, 0, 0.1], [0, 2, 0.1]]), dim=1
    )  # a much redder and a much greener picture
    rows = torch.arange(2).repeat(40, 1)
    scores = {
        "knn": heat.knn_score(bank, torch.arange(2), rows, classes, 0.07),
        "linear": heat.linear_score(
            fit_probe(features.numpy(), labels, 2), classes, encoder.device
        ),
    }
    for kind, score in scores.items():
        for method, maps in heat.heat(encoder, crops, score, "layer4").items():
            assert maps.shape == (40, SIDE, SIDE) and maps.min() >= 0
            assert np.allclose(maps.sum((1, 2)), 1, atol=1e-4)
            on, off = (looks.percent(looks.looks(maps, m)) for m in (patches, others))
            assert on["pointing"] == 100 and off["pointing"] == 0, (kind, method)
            assert on["share"] > 60 > 10 > off["share"], (kind, method)
            assert on["iou_area"] > 50 and on["without_map"] == 0


def test_the_votes_score_is_the_log_of_the_vote(seen):
    encoder, crops, *_ = seen
    features = forward(encoder, crops[:3]).double()
    rng = np.random.default_rng(1)
    bank = rng.normal(size=(9, 3))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    kinds, rows = np.array([0, 1, 2] * 3), np.array([[0, 1, 3], [8, 6, 0], [4, 5, 1]])
    found = heat.knn_score(
        torch.from_numpy(bank),
        torch.from_numpy(kinds),
        torch.from_numpy(rows),
        torch.tensor([0, 0, 1]),
        0.5,
    )(features)
    for i, decided in enumerate((0, 0, 1)):
        x = features[i].numpy() / np.linalg.norm(features[i].numpy())
        vote = sum(np.exp(x @ bank[r] / 0.5) for r in rows[i] if kinds[r] == decided)
        assert float(found[i]) == pytest.approx(np.log(vote))


def test_numbers_of_a_map_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2, :2] = 255
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0], maps[0, 0, 1], maps[0, 3, 3] = 4, 1, 3
    found = looks.looks(maps, mask)
    assert found["share"][0] == 5 / 8 and found["pointing"][0] == 1
    assert found["iou"][0] == 1 / 5  # (0, 0) and (3, 3) are above half of 4
    assert (
        found["iou_area"][0] == 2 / 6
    )  # four pixels: (0, 0), (3, 3), (0, 1) and the first of the zeros, (0, 2)
    empty = looks.percent(looks.looks(np.stack([maps[0], 0 * maps[0]]), np.repeat(mask, 2, 0)))
    assert empty["without_map"] == 1 and empty["share"] == 62.5
    assert looks.chance(mask) == {"share": 25, "pointing": 25, "centre": 0}


def test_neighbours_against_plain_loops():
    rng = np.random.default_rng(0)
    bank, queries, objects, asked = (
        rng.normal(size=(60, 5)),
        rng.normal(size=(30, 5)),
        rng.normal(size=(60, 4)),
        rng.normal(size=(30, 4)),
    )
    chosen = rng.integers(0, 60, 30)

    def rank(bank, query, row):
        def cosine(r):
            return bank[r] @ query / np.linalg.norm(bank[r]) / np.linalg.norm(query)

        return sum(cosine(r) > cosine(row) for r in range(60) if r != row) / 60

    expected = [
        [rank(b, q[i], chosen[i]) for i in range(30)]
        for b, q in ((bank, queries), (objects, asked))
    ]
    found = [neighbours.ranks(b, q, chosen) for b, q in ((bank, queries), (objects, asked))]
    assert np.allclose(found, expected)
    split = neighbours.split(*found)
    assert split["same_background"] == pytest.approx(100 * sum(r < 0.05 for r in expected[0]) / 30)
    assert split["same_object"] == pytest.approx(100 * sum(r < 0.05 for r in expected[1]) / 30)
    better = sum((a < b) + (a == b) / 2 for a, b in zip(*expected, strict=True))
    assert split["background_rather"] == pytest.approx(100 * better / 30)
    kinds = ["a", "b", "c"] * 20
    own = [kinds[i] for i in rng.integers(0, 60, 30)]
    classes, of = rng.integers(0, 4, 30), rng.integers(0, 4, 60)
    exact = neighbours.known(own, kinds, chosen, found[0], classes, of)
    by_chance = [
        np.mean([kinds[r] == k for r in range(60) if of[r] != c])
        for k, c in zip(own, classes, strict=True)
    ]
    same = [kinds[c] == k for c, k in zip(chosen, own, strict=True)]
    pairs = [
        (a < b) + (a == b) / 2
        for a, s in zip(expected[0], same, strict=True)
        if s
        for b, t in zip(expected[0], same, strict=True)
        if not t
    ]
    assert exact["known_same_background"] == pytest.approx(100 * np.mean(same))
    assert exact["known_chance"] == pytest.approx(100 * np.mean(by_chance))
    assert exact["estimate_auc"] == pytest.approx(np.mean(pairs))


def test_the_embedded_datas_backgrounds_are_of_the_kinds_that_are_said():
    for part, splits in (
        ("train", ("train",)),
        ("probe", ("probe",)),
        ("test", ("original", "mixed_rand")),
    ):
        for index in range(12):
            kinds = background_kinds(part, index, seed=3, bias=0.5)
            key = (("train", "probe", "test").index(part), index)
            colours, alpha = draw_object(list(CLASSES)[index % 10], _rng(3, *key, 0), 24)
            mean = (colours * alpha[..., None]).sum((0, 1)) / max(float(alpha.sum()), 1.0)
            for split in splits:
                image, mask = draw(part, index, seed=3, size=24, bias=0.5)[split]
                back = draw_background(
                    kinds[split], _rng(3, *key, 4 if split == "mixed_rand" else 2), 24, mean
                )
                assert np.array_equal(image[mask == 0], np.rint(back).astype(np.uint8)[mask == 0])
    assert all(
        background_kinds("train", i, bias=1.0)["train"] == OWN_KIND[list(CLASSES)[i % 10]]
        for i in range(20)
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The embedded data, small, and two networks with random weights."""
    root = tmp_path_factory.mktemp("diagnose")
    make(root / "data", Scenes(train=300, probe=10, test=80, size=32), progress=False)
    files = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        files.append(str(root / f"network{seed}.pth"))
        torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), files[-1])
    return root, files


def test_two_networks_on_the_embedded_data(embedded, capsys):
    root, files = embedded
    main(
        [
            "--runs",
            *files,
            "--data",
            str(root / "data"),
            "--json",
            str(root / "out" / "d.json"),
            "--k",
            "5",
            "--examples",
            "2",
        ]
    )
    result = json.loads((root / "out" / "d.json").read_text())
    assert list(result["runs"]) == files and "background_rather" in capsys.readouterr().out
    assert (root / "out" / "d.png").stat().st_size > 5000
    assert result["protocol"]["queries"] == "original" and result["protocol"]["query_images"] == 80
    for values in result["runs"].values():
        numbers, split = values["accuracy"], values["neighbours"]
        assert {"share", "pointing", "iou", "same_background", "knn", "linear"} <= set(numbers)
        assert 0 < numbers["share"] < 100 and split["nearest_wrong"] > 20
        assert split["known_chance"] == pytest.approx(
            2.2, abs=1.5
        )  # 90 % of a class are on its own kind
        assert 0 <= split["known_same_background"] <= 100
        assert (split["estimate_auc"] is None) == (split["known_same_background"] in (0, 100))
    assert "pictures" not in result


def test_backgrounds_are_told_by_features_that_know_textures(embedded):
    """The estimate against what is known: pictures without their object, described by their
    spectrum."""
    root, _ = embedded
    images = Labelled(str(root / "data" / "train"), 32)
    rows = np.arange(0, 300, 2)
    parts = Parts(
        images,
        rows,
        Masks(str(root / "data" / "masks"), "train").find(images.paths[rows]),
        "background",
    )
    grey = np.stack([part.mean(2) for part in parts])
    spectrum = np.log1p(np.abs(np.fft.rfft2(grey - grey.mean((1, 2), keepdims=True)))).reshape(
        len(rows), -1
    )
    spectrum -= spectrum.mean(0)
    index = [int(path.split(b"/")[1].split(b".")[0]) for path in images.paths[rows].tolist()]
    kinds = [background_kinds("train", i)["train"] for i in index]
    ask, bank = np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)
    asks, chosen = (part.ravel() for part in np.meshgrid(ask, np.arange(len(bank))))  # every pair
    found = neighbours.known(
        [kinds[i] for i in asks],
        [kinds[i] for i in bank],
        chosen,
        neighbours.ranks(spectrum[bank], spectrum[asks], chosen),
        np.zeros(len(asks)),
        np.ones(len(bank)),
    )
    assert found["known_same_background"] == pytest.approx(found["known_chance"])
    assert found["estimate_auc"] > 0.57  # 0.5: the pictures' kinds would be unknown


def test_masks_are_found_in_caches_and_folders_alike(images, truth_cache):
    labelled = Labelled(str(images / "train"), 24)
    from_cache = Masks(str(truth_cache), "train").find(labelled.paths)
    from_files = Masks(str(images / "masks"), "train").find(labelled.paths)
    assert len(from_cache) == 80 and all(
        np.abs(cv2.resize(b, (32, 32), interpolation=cv2.INTER_AREA).astype(int) - a).mean() < 12
        for a, b in zip(from_cache, from_files, strict=True)
    )
    assert Masks(str(truth_cache), "train").find(np.array([b"class0/none.png"])) == [None]
    with pytest.raises(UsageError, match="no such mask cache"):
        Masks(str(images / "nothing"), "train")


def test_parts_of_an_image(images):
    labelled = Labelled(str(images / "train"), 48)
    masks = Masks(str(images / "masks"), "train").find(labelled.paths[:4])
    for i, mask in enumerate(masks):
        image = labelled.read(i)
        object_, background = (
            Parts(labelled, np.arange(4), masks, cut)[i].astype(int)
            for cut in ("object", "background")
        )
        inside, far = mask > 0, cv2.dilate(mask, np.ones((9, 9))) == 0
        assert (
            np.array_equal(object_[inside], image[inside])
            and np.ptp(object_[far], axis=0).max() == 0
        )
        assert np.array_equal(background[far], image[far])
        # the bright disc is gone: what is in its place looks like the noise around it
        assert np.abs(background[inside].mean(0) - image[far].mean(0)).max() < 15


def test_a_colour_map_is_red_at_the_maximum():
    level = np.zeros((5, 5))
    level[2, 2] = 3
    shown = over(np.full((5, 5, 3), 100, np.uint8), level)
    assert shown[2, 2, 0] > shown[2, 2, 2] and shown[0, 0, 2] > shown[0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ()}, "give --runs"),
        ({"data": ""}, "--data"),
        ({"k": 0}, "--k"),
        ({"stage": 5}, "--stage 5"),
        ({"masks": "/nowhere"}, "no such mask cache"),
        ({"queries": "nope"}, "nope"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_bad_input_is_one_line(embedded, change, message):
    root, files = embedded
    with pytest.raises(UsageError, match=message):
        run(**{"runs": files[:1], "data": str(root / "data"), "limit": 3, **change})


def test_a_small_last_stage_is_passed_over(tmp_path):
    torch.save(backbone("resnet10", "imagenet", 8).state_dict(), tmp_path / "x.pth")
    encoder = load_encoder(weights=str(tmp_path / "x.pth"), size=32, device="cpu")
    assert heat.stage_of(encoder) == ("layer2", 4)
    assert heat.stage_of(encoder, 1) == ("layer1", 8)
