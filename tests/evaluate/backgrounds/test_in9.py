"""ImageNet-9 in the official layout, made small from the embedded data set, against plain loops."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.cli import UsageError
from data.synthetic.dataset import draw
from data.synthetic.objects import CLASSES
from evaluate.backgrounds import in9
from evaluate.features import load_encoder
from evaluate.published import in9_table
from train.network import backbone

SIZE, OBJECTS = 32, 40
NAMES = (
    "dog",
    "bird",
    "wheeled vehicle",
    "reptile",
    "carnivore",
    "insect",
    "musical instrument",
    "primate",
    "fish",
)
FOLDERS = {
    "original": "original",
    "mixed_same": "mixed_same",
    "mixed_rand": "mixed_rand",
    "only_fg": "only_fg",
    "only_bg": "only_bg_t",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """VARIANT/val/00_dog/... and fg_mask, as the official archive has them; PNG, so that no decoder
    blurs the test."""
    root = tmp_path_factory.mktemp("in9")
    for index in range(OBJECTS):
        label = index % len(CLASSES)
        if label == 9:
            continue
        name = f"{label:02d}_{NAMES[label]}"
        for split, (image, mask) in draw("test", index, size=SIZE).items():
            folder = root / FOLDERS[split] / "val" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")
            if split == "original":
                (root / "fg_mask" / "val" / name).mkdir(parents=True, exist_ok=True)
                np.save(root / "fg_mask" / "val" / name / f"{index}.npy", mask >= 128)
        image, _ = draw("train", index, size=SIZE)["train"]
        (root / "training" / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "training" / "train" / name / f"{index}.png")
    (root / "in_to_in9.json").write_text(json.dumps(mapping()))
    return root


def mapping() -> dict[str, int]:
    """A mapping with the official one's counts: 370 classes to nine, 630 to none."""
    rng = np.random.default_rng(0)
    values = rng.permutation(np.concatenate([np.arange(370) % 9, np.full(630, -1)]))
    return {str(i): int(v) for i, v in enumerate(values)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("network") / "x.pth"
    model = backbone("resnet10", "small_stride2", 8)
    # spread the decisions over the classes: a random network would give a single one
    nn.init.normal_(model.fc.weight, 0, 3)
    torch.save(model.state_dict(), file)
    return model.eval(), {"weights": str(file), "stem": "small_stride2", "device": "cpu"}


def pixels(file) -> torch.Tensor:
    image = (
        torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).double() / 255
    )
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return ((image - mean[:, None, None]) / std[:, None, None]).float()


def decided(model, images) -> list[int]:
    with torch.no_grad():
        return [mapping()[str(int(c))] for c in model(torch.stack(images)).argmax(1)]


def test_the_mappings_counts_are_held_to(root, tmp_path):
    found = in9.read_mapping(root / "in_to_in9.json")
    assert (
        (found >= 0).sum() == 370
        and (found == -1).sum() == 630
        and found.tolist() == list(mapping().values())
    )
    wrong = mapping()
    wrong["0"] = 3 if wrong["0"] == -1 else -1
    for content, message in (
        (json.dumps(wrong), r"maps 3(69|71) of 1000 classes"),
        ("[1]", "not a mapping"),
        ("{", "not a mapping"),
        (json.dumps({**mapping(), "1000": 1}), "of 1001 classes"),
        (json.dumps({k: min(v, 7) for k, v in mapping().items()}), "370 of 1000 classes to 8"),
        (json.dumps({k: str(v) for k, v in mapping().items()}), "official mapping"),
    ):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            in9.read_mapping(tmp_path / "m.json")
    with pytest.raises(UsageError, match=r"no such mapping; in_to_in9\.json is in"):
        in9.read_mapping(tmp_path / "absent.json")


def test_a_thousand_way_head_is_mapped_as_the_official_script_does(root, network):
    model, options = network
    result = in9.evaluate(in9.Arguments(data=str(root), challenge=True, **options))
    found = result["accuracy"]["head"]
    assert set(found) == {
        "original",
        "mixed_same",
        "mixed_rand",
        "only_fg",
        "only_bg_t",
        "bg_gap",
        "challenge",
    }
    for variant in FOLDERS.values():
        files = sorted((root / variant / "val").glob("*/*.png"))
        right = [
            d == int(f.parent.name[:2])
            for d, f in zip(decided(model, [pixels(f) for f in files]), files, strict=True)
        ]
        assert found[variant] == pytest.approx(100 * np.mean(right)), variant
        assert result["per_class"]["head"][variant]["08_fish"] == pytest.approx(
            100
            * np.mean([r for r, f in zip(right, files, strict=True) if f.parent.name == "08_fish"])
        )
    assert found["bg_gap"] == found["mixed_same"] - found["mixed_rand"]
    assert (
        0 < found["mixed_same"] < 100
    )  # the test would see nothing in a network that is always wrong


def test_the_challenge_needs_every_background(root, network):
    _, options = network
    backgrounds = [pixels(f) for f in sorted((root / "only_bg_t" / "val").glob("*/*.png"))]
    masks = sorted((root / "fg_mask" / "val").glob("*/*.npy"))

    # two classes by one feature, its threshold chosen so that some foregrounds survive all
    # backgrounds and some do not
    def decide(features):
        return (features[:, 0] > np.float32(threshold)) * 1

    encoder = load_encoder(**options)
    net = encoder.model
    composed = {}
    for file in masks:
        mask = torch.from_numpy(np.load(file)).float()
        image = pixels(root / "original" / "val" / file.parent.name / f"{file.stem}.png")
        with torch.no_grad():
            composed[file] = net(torch.stack([b * (1 - mask) + image * mask for b in backgrounds]))[
                :, 0
            ].numpy()
    threshold = (
        np.median([c.max() for f, c in composed.items() if f.parent.name[:2] == "00"]) + 1e-4
    )
    expected = np.mean(
        [((c > threshold) * 1 == int(f.parent.name[:2])).all() for f, c in composed.items()]
    )
    assert 0 < expected < 1
    assert in9.challenge(encoder, decide, str(root)) == pytest.approx(100 * expected)


def test_a_nine_way_probe(root, network):
    _, options = network
    result = in9.evaluate(in9.Arguments(data=str(root), train=str(root / "training"), **options))
    assert set(result["accuracy"]) == {"head", "probe"} and result["protocol"]["train_images"] == 36
    inner = in9.evaluate(
        in9.Arguments(data=str(root), train=str(root / "training" / "train"), **options)
    )
    assert inner["accuracy"] == result["accuracy"]
    assert result["accuracy"]["probe"]["original"] > 100 / 9
    assert result["published"][0]["challenge"] == 22.3


def test_a_kept_classifier_of_imagenet_is_a_head(root, network, tmp_path):
    model, options = network
    encoder = load_encoder(**options)
    names = [f"n{i:08d}" for i in range(1000)]
    state = {
        "identity": json.dumps({"weights": encoder.digest, "classes": names}),
        "step": 1,
        "model": {"weight": model.fc.weight.data, "bias": model.fc.bias.data},
    }
    torch.save(state, tmp_path / "linear-seed0.pt")
    result = in9.evaluate(
        in9.Arguments(data=str(root), head=str(tmp_path / "linear-seed0.pt"), **options)
    )
    assert (
        result["accuracy"]["head"]
        == in9.evaluate(in9.Arguments(data=str(root), **options))["accuracy"]["head"]
    )
    for change, message in (
        ({"weights": "other"}, "another network's features"),
        ({"classes": names[:10]}, "has 10 classes, not ImageNet's 1000"),
    ):
        identity = {"weights": encoder.digest, "classes": names} | change
        torch.save({**state, "identity": json.dumps(identity)}, tmp_path / "y.pt")
        with pytest.raises(UsageError, match=message):
            in9.read_head(tmp_path / "y.pt", encoder)


def test_a_class_that_a_variant_has_no_image_of_is_left_out(root, network, tmp_path):
    _, options = network
    (tmp_path / "challenge.json").write_text(
        json.dumps({"name": "dilo-challenge", "classes": ["a", "b"]})
    )
    for variant, source, folders in (
        ("mixed_same", "mixed_same", {"a": "00_dog", "b": "01_bird"}),
        ("mixed_rand", "mixed_rand", {"a": "00_dog"}),
        ("training", "original", {"a": "00_dog", "b": "01_bird"}),
    ):
        (tmp_path / variant / "val").mkdir(parents=True)
        for name, folder in folders.items():
            (tmp_path / variant / "val" / name).symlink_to(root / source / "val" / folder)
    found = in9.evaluate(
        in9.Arguments(data=str(tmp_path), train=str(tmp_path / "training" / "val"), **options)
    )["per_class"]["probe"]
    assert set(found["mixed_same"]) == {"a", "b"} and set(found["mixed_rand"]) == {
        "a"
    }  # no NaN, which is no JSON


def test_bad_input_is_one_line(root, network, tmp_path):
    _, options = network
    with pytest.raises(UsageError, match="needs at least mixed_same/val and mixed_rand/val"):
        in9.evaluate(in9.Arguments(data=str(tmp_path), **options))
    with pytest.raises(UsageError, match="no classifier: give --train"):
        in9.evaluate(in9.Arguments(data=str(root), untrained=True, **options))
    with pytest.raises(UsageError, match="needs the nine class folders 00_dog to 08_fish"):
        in9.evaluate(in9.Arguments(data=str(root), train=str(root), **options))
    with pytest.raises(UsageError, match="give either --run RUN or --weights FILE"):
        in9.evaluate(in9.Arguments(data=str(root)))


def test_published_rows_are_consistent():
    rows = in9_table()
    for row in rows:
        if {"bg_gap", "mixed_same", "mixed_rand"} <= set(row):
            assert row["bg_gap"] == pytest.approx(
                row["mixed_same"] - row["mixed_rand"], abs=0.11
            ), row["model"]
    assert [row["source"].endswith("second-hand") for row in rows if "MoCo" in row["model"]] == [
        True
    ] * 4
