"""The diagnosis: maps of a network whose decision is known to come from one place; neighbours
against plain loops."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from data.cli import UsageError
from data.synthetic.dataset import Scenes, background_kinds, draw, make
from evaluate.common import Common, command
from evaluate.diagnose import command as diagnosis
from evaluate.diagnose import heat, neighbours
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.figure import over
from evaluate.diagnose.localisation import chance, heatmap_statistics, percent
from evaluate.diagnose.parts import Parts, Split, find_masks
from evaluate.features import Encoder, load_encoder
from evaluate.probes.linear import fit_probe
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


@pytest.fixture(scope="module")
def seen():
    """An encoder that looks at red and green; pictures with a red or green patch and a blue one,
    and both patches."""
    encoder = Encoder(Colours().requires_grad_(False).eval(), SIDE, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pictures = np.full((40, SIDE, SIDE, 3), 115, np.uint8)
    patches, others = np.zeros((2, 40, SIDE, SIDE), np.uint8)
    labels = np.arange(40) % 2
    for picture, patch, other, label in zip(pictures, patches, others, labels, strict=True):
        y, x = 4 * rng.integers(0, 6, 2)
        patch[y : y + 8, x : x + 8] = 255
        other[(y + 16) % SIDE : (y + 16) % SIDE + 8, x : x + 8] = 255
        # brighter than the patch: it attracts a map that ignores the decision
        picture[other > 0] = (20, 20, 250)
        picture[patch > 0] = (220, 40, 40) if label == 0 else (40, 220, 40)
    return encoder, torch.from_numpy(pictures), patches, others, labels


def test_maps_lie_where_the_decision_comes_from(seen):
    encoder, crops, patches, others, labels = seen
    assert heat.stage_of(encoder) == ("layer4", 8)
    features = forward(encoder.model, crops, encoder.device)
    classes = torch.from_numpy(labels)
    # a much redder and a much greener picture
    bank = F.normalize(torch.tensor([[2, 0, 0.1], [0, 2, 0.1]]), dim=1)
    rows = torch.arange(2).repeat(40, 1)
    probe = fit_probe(features.numpy(), labels, 2)
    scores = {
        "knn": heat.knn_score(bank, torch.arange(2), rows, classes, 0.07),
        "linear": heat.linear_score(probe, classes),
    }
    for kind, score in scores.items():
        for method, maps in heat.heat(encoder, crops, score, "layer4").items():
            assert maps.shape == (40, SIDE, SIDE) and maps.min() >= 0
            assert np.allclose(maps.sum((1, 2)), 1, atol=1e-4)
            on, off = (percent(heatmap_statistics(maps, masks)) for masks in (patches, others))
            assert on["pointing"] == 100 and off["pointing"] == 0, (kind, method)
            assert on["share"] > 60 > 10 > off["share"], (kind, method)
            assert on["iou_area"] > 50 and on["without_map"] == 0


def test_the_votes_score_is_the_log_of_the_vote(seen):
    encoder, crops, *_ = seen
    features = forward(encoder.model, crops[:3], encoder.device).double()
    bank = np.random.default_rng(1).normal(size=(9, 3))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    kinds, rows = np.array([0, 1, 2] * 3), np.array([[0, 1, 3], [8, 6, 0], [4, 5, 1]])
    tensors = (torch.from_numpy(values) for values in (bank, kinds, rows))
    scores = heat.knn_score(*tensors, torch.tensor([0, 0, 1]), 0.5)(features)
    for i, decided in enumerate((0, 0, 1)):
        x = features[i].numpy() / np.linalg.norm(features[i].numpy())
        vote = sum(np.exp(x @ bank[r] / 0.5) for r in rows[i] if kinds[r] == decided)
        assert float(scores[i]) == pytest.approx(np.log(vote))


def test_numbers_of_a_map_by_hand():
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2, :2] = 255
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0], maps[0, 0, 1], maps[0, 3, 3] = 4, 1, 3
    statistics = heatmap_statistics(maps, mask)
    # above half of 4 are (0, 0) and (3, 3); the four largest are those, (0, 1) and (0, 2)
    expected = {"share": 5 / 8, "pointing": 1, "iou": 1 / 5, "iou_area": 2 / 6}
    assert {name: values[0] for name, values in statistics.items()} == expected
    empty = percent(heatmap_statistics(np.stack([maps[0], 0 * maps[0]]), np.repeat(mask, 2, 0)))
    assert empty["without_map"] == 1 and empty["share"] == 62.5
    assert chance(mask) == {"share": 25, "pointing": 25, "centre": 0}


def test_neighbours_against_plain_loops():
    rng = np.random.default_rng(0)
    spaces = [(rng.normal(size=(60, side)), rng.normal(size=(30, side))) for side in (5, 4)]
    chosen = rng.integers(0, 60, 30)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def rank(bank, query, row):
        own = cosine(bank[row], query)
        return sum(cosine(bank[r], query) > own for r in range(60) if r != row) / 60

    expected = [[rank(b, q[i], chosen[i]) for i in range(30)] for b, q in spaces]
    ranks = [neighbours.ranks(b, q, chosen) for b, q in spaces]
    assert np.allclose(ranks, expected)
    split = neighbours.split(*ranks)
    assert split["same_background"] == pytest.approx(100 * sum(r < 0.05 for r in expected[0]) / 30)
    assert split["same_object"] == pytest.approx(100 * sum(r < 0.05 for r in expected[1]) / 30)
    better = sum((a < b) + (a == b) / 2 for a, b in zip(*expected, strict=True))
    assert split["background_rather"] == pytest.approx(100 * better / 30)

    kinds, own = np.array(["a", "b", "c"] * 20), rng.choice(["a", "b", "c"], 30)
    classes, of = rng.integers(0, 4, 30), rng.integers(0, 4, 60)
    shares = neighbours.share_of_kind(own, classes, kinds, of)
    for share, kind, label in zip(shares, own, classes, strict=True):
        assert share == np.mean([kinds[r] == kind for r in range(60) if of[r] != label])
    same = kinds[chosen] == own
    known = neighbours.known(same, shares, ranks[0])
    hits, misses = np.array(expected[0])[same], np.array(expected[0])[~same]
    pairs = [(a < b) + (a == b) / 2 for a in hits for b in misses]
    assert known["known_same_background"] == pytest.approx(100 * np.mean(same))
    assert known["known_chance"] == pytest.approx(100 * np.mean(shares))
    assert known["estimate_auc"] == pytest.approx(np.mean(pairs))


def test_the_kinds_of_the_embedded_datas_backgrounds():
    """The same scene at two biases shows the same picture exactly where the kinds are the same."""
    for part, name in (("train", "train"), ("test", "original")):
        for index in range(20):
            kinds = [background_kinds(part, index, bias=bias)[name] for bias in (0.3, 1.0)]
            pictures = [draw(part, index, bias=bias)[name][0] for bias in (0.3, 1.0)]
            assert np.array_equal(*pictures) == (kinds[0] == kinds[1]), (part, index)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The embedded data, small, and two networks with random weights."""
    root = tmp_path_factory.mktemp("diagnose")
    make(root / "data", Scenes(train=300, probe=10, test=80, size=32))
    files = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        files.append(str(root / f"network{seed}.pth"))
        torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), files[-1])
    return root, files


def test_two_networks_on_the_embedded_data(embedded, capsys):
    root, files = embedded
    out = root / "out" / "d.json"
    options = ["--json", str(out), "--k", "5", "--examples", "2"]
    command("diagnose", diagnosis, ["--runs", *files, "--data", str(root / "data"), *options])
    result = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert "background_rather" in printed and "\nchance " in printed
    assert list(result["runs"]) == files and "pictures" not in result
    assert out.with_suffix(".png").stat().st_size > 5000
    assert result["protocol"]["queries"] == "original" and result["protocol"]["query_images"] == 80
    for values in result["runs"].values():
        numbers, split = values["accuracy"], values["neighbours"]
        assert {"share", "pointing", "iou", "same_background", "knn", "linear"} <= set(numbers)
        assert 0 < numbers["share"] < 100 and split["nearest_wrong"] > 20
        # 90 % of a class are on its own kind
        assert split["known_chance"] == pytest.approx(2.2, abs=1.5)
        assert 0 <= split["known_same_background"] <= 100
        assert (split["estimate_auc"] is None) == (split["known_same_background"] in (0, 100))
        assert values["chance"] == result["chance"]


def test_every_run_has_the_chance_of_its_own_size(tmp_path, embedded):
    root, (small, _) = embedded
    large = str(tmp_path / "large.pth")  # 224 px, since its first layer is 7x7
    torch.save(backbone("resnet10", "imagenet", 4).state_dict(), large)
    alone, both = (
        diagnosis.evaluate(Arguments(runs, str(root / "data"), limit=20, examples=0))
        for runs in ((small,), (small, large))
    )
    assert both["runs"][small]["chance"] == alone["chance"] != both["runs"][large]["chance"]
    assert "chance" not in both and f"\nchance, {small} " in "\n".join(diagnosis.lines(both))
    assert [at.split()[-2] for at in both["protocol"]["maps_at"].values()] == ["32", "224"]


def test_a_run_has_its_own_numbers_unless_its_folder_takes_none(trained, data, images, tmp_path):
    out, masks = tmp_path / "d.json", str(images / "masks")
    options = ["--data", data, "--masks", masks, "--bank-masks", masks, "--limit", "4"]
    argv = ["--runs", trained, *options, "--examples", "0", "--json", str(out)]
    own = Path(trained, "diagnose.json")
    command("diagnose", diagnosis, argv)
    result, numbers = json.loads(out.read_text()), json.loads(own.read_text())
    assert numbers["run"] == trained and numbers["evaluation"] == "diagnose"
    assert result["runs"][trained].items() <= numbers.items()
    own.unlink()
    out.unlink()
    own.mkdir()  # nothing can be written there
    command("diagnose", diagnosis, argv)
    own.rmdir()
    assert json.loads(out.read_text()) == result


def test_backgrounds_are_judged_by_features_that_know_textures(embedded):
    """The estimate against what is known: pictures without their object, described by their
    spectrum."""
    root, _ = embedded
    images = Labelled(str(root / "data" / "train"), 32)
    rows = np.arange(0, 300, 2)
    masks = find_masks(str(root / "data" / "masks"), images, rows)
    parts = Parts(Split(images, rows, masks), 32, "background")
    grey = np.stack([part.mean(2) for part in parts])
    grey -= grey.mean((1, 2), keepdims=True)
    spectrum = np.log1p(np.abs(np.fft.rfft2(grey))).reshape(len(rows), -1)
    spectrum -= spectrum.mean(0)
    index = [int(path.split(b"/")[1].split(b".")[0]) for path in images.paths[rows].tolist()]
    kinds = np.array([background_kinds("train", i)["train"] for i in index])
    queries, bank = np.arange(0, len(rows), 2), np.arange(1, len(rows), 2)
    pairs = np.meshgrid(queries, np.arange(len(bank)))  # every pair
    queries, chosen = (part.ravel() for part in pairs)
    ranks = neighbours.ranks(spectrum[bank], spectrum[queries], chosen)
    same = kinds[queries] == kinds[bank][chosen]
    known = neighbours.known(same, np.ones(len(same)), ranks)
    assert known["estimate_auc"] > 0.57  # 0.5: the pictures' kinds would be unknown


def test_masks_are_found_in_caches_and_folders_alike(images, truth_cache):
    labelled, rows = Labelled(str(images / "train"), 24), np.arange(80)
    from_cache = find_masks(str(truth_cache), labelled, rows)
    from_files = find_masks(str(images / "masks"), labelled, rows)
    assert len(from_cache) == 80
    for cached, mask in zip(from_cache, from_files, strict=True):
        small = cv2.resize(mask, (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - cached).mean() < 12
    with pytest.raises(UsageError, match="no such mask cache"):
        find_masks(str(images / "nothing"), labelled, rows)


def test_masks_of_other_tools_and_missing_ones(tmp_path):
    """0 and 1, a palette, alpha, 16 bits, and a mask of the picture as its EXIF tag displays it."""
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 20:50] = 255
    palette = Image.fromarray(truth // 255, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    cut_out = np.dstack([np.full((40, 60, 3), 90, np.uint8), truth])
    masks = [truth // 255, palette, cut_out, truth.astype(np.uint16) * 257, np.rot90(truth, -1)]
    for folder in ("val/a", "masks/a"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(6):
        picture = Image.new("RGB", (60, 40))
        exif = picture.getexif()
        exif[0x0112] = 6 if i == 4 else 1
        picture.save(tmp_path / f"val/a/{i}.jpg", exif=exif)
    for i, mask in enumerate(masks):
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(tmp_path / f"masks/a/{i}.png")
    found = find_masks(str(tmp_path / "masks"), Labelled(str(tmp_path / "val"), 24), np.arange(6))
    assert all(np.array_equal(mask, truth) for mask in found[:5]) and found[5] is None


def test_parts_of_an_image(images):
    labelled = Labelled(str(images / "train"), 48)
    masks = find_masks(str(images / "masks"), labelled, np.arange(4))
    for i, mask in enumerate(masks):
        image = labelled.read(i)
        object_, background = (
            Parts(Split(labelled, np.arange(4), masks), 48, cut)[i].astype(int)
            for cut in ("object", "background")
        )
        inside, far = mask > 0, cv2.dilate(mask, np.ones((9, 9))) == 0
        assert np.array_equal(object_[inside], image[inside])
        assert np.ptp(object_[far], axis=0).max() == 0
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
        ({"masks": "/nowhere"}, "no such mask cache"),
        ({"queries": "nope"}, "nope"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_bad_input_is_one_line(embedded, change, message):
    root, files = embedded
    options = {"runs": tuple(files[:1]), "data": str(root / "data"), "limit": 3, **change}
    with pytest.raises(UsageError, match=message):
        diagnosis.evaluate(Arguments(**options))


def test_masks_of_the_queries_alone_leave_the_neighbours_out(tmp_path):
    (tmp_path / "masks/val").mkdir(parents=True)
    arguments = Arguments(("run",), str(tmp_path)).resolve(embedded=False)
    assert arguments.masks == str(tmp_path / "masks") and arguments.bank_masks is None
    (tmp_path / "masks/train").mkdir()
    assert Arguments(("run",), str(tmp_path)).resolve(embedded=False).bank_masks == arguments.masks


def test_a_small_last_stage_is_passed_over(tmp_path):
    torch.save(backbone("resnet10", "imagenet", 8).state_dict(), tmp_path / "x.pth")
    encoder = load_encoder(Common(weights=str(tmp_path / "x.pth"), size=32, device="cpu"))
    assert heat.stage_of(encoder) == ("layer2", 4)
    assert heat.stage_of(encoder, 1) == ("layer1", 8)
