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
from evaluate.common import Common
from evaluate.features import load_encoder
from evaluate.published import IN9
from train.network import backbone

SIZE, OBJECTS = 32, 40
NAMES = ("dog", "bird", "wheeled vehicle", "reptile", "carnivore", "insect")
NAMES += ("musical instrument", "primate", "fish")
SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg")
FOLDERS = {**dict(zip(SPLITS, SPLITS, strict=True)), "only_bg": "only_bg_t"}


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


def evaluated(data, **options) -> dict:
    return in9.evaluate(in9.Arguments(data=str(data), **options))


def test_the_mappings_counts_are_held_to(root, tmp_path):
    found = in9.read_mapping(root / "in_to_in9.json")
    assert found.tolist() == list(mapping().values())
    wrong = mapping()
    wrong["0"] = 3 if wrong["0"] == -1 else -1
    for content, message in (
        (json.dumps(wrong), r"maps 3(69|71) of 1000 classes"),
        ("[1]", "not a mapping"),
        ("{", "not a mapping"),
        (json.dumps({**mapping(), "1000": 1}), "of 1001 classes"),
        (json.dumps({k: min(v, 7) for k, v in mapping().items()}), "370 of 1000 classes to 8"),
        (json.dumps({k: str(v) for k, v in mapping().items()}), "not a mapping"),
    ):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(UsageError, match=message):
            in9.read_mapping(tmp_path / "m.json")
    with pytest.raises(UsageError, match=r"no such mapping; in_to_in9\.json is in"):
        in9.read_mapping(tmp_path / "absent.json")


def test_a_thousand_way_head_is_mapped_as_the_official_script_does(root, network):
    model, options = network
    result = evaluated(root, challenge=True, **options)
    found = result["accuracy"]["head"]
    assert set(found) == {*FOLDERS.values(), "bg_gap", "challenge"}
    for variant in FOLDERS.values():
        files = sorted((root / variant / "val").glob("*/*.png"))
        labels = np.array([int(file.parent.name[:2]) for file in files])
        right = np.array(decided(model, [pixels(file) for file in files])) == labels
        fish = result["per_class"]["head"][variant]["08_fish"]
        assert found[variant] == pytest.approx(100 * right.mean()), variant
        assert fish == pytest.approx(100 * right[labels == 8].mean()), variant
    assert found["bg_gap"] == found["mixed_same"] - found["mixed_rand"]
    assert 0 < found["mixed_same"] < 100  # a network that is always wrong would show nothing


def test_the_challenge_needs_every_background(root, network):
    _, options = network
    backgrounds = [pixels(f) for f in sorted((root / "only_bg_t" / "val").glob("*/*.png"))]
    masks = sorted((root / "fg_mask" / "val").glob("*/*.npy"))

    # two classes by one feature, its threshold chosen so that some foregrounds survive all
    # backgrounds and some do not
    def decide(features):
        return (features[:, 0] > np.float32(threshold)) * 1

    encoder, composed = load_encoder(Common(**options)), {}
    for file in masks:
        mask = torch.from_numpy(np.load(file)).float()
        image = pixels(root / "original" / "val" / file.parent.name / f"{file.stem}.png")
        with torch.no_grad():
            pasted = torch.stack([b * (1 - mask) + image * mask for b in backgrounds])
            composed[file] = encoder.model(pasted)[:, 0].numpy()
    highest = [c.max() for file, c in composed.items() if file.parent.name[:2] == "00"]
    threshold = np.median(highest) + 1e-4
    safe = [((c > threshold) * 1 == int(f.parent.name[:2])).all() for f, c in composed.items()]
    assert 0 < np.mean(safe) < 1
    classes = [f"{i:02d}_{name}" for i, name in enumerate(NAMES)]
    share = in9.challenge(encoder, decide, str(root), classes)
    assert share == pytest.approx(100 * np.mean(safe))
    with pytest.raises(UsageError, match=r"masks .* of the classes a to b"):
        in9.challenge(encoder, decide, str(root), ["a", "b"])


def test_a_nine_way_probe(root, network):
    _, options = network
    result = evaluated(root, train=str(root / "training"), **options)
    assert set(result["accuracy"]) == {"head", "probe"} and result["protocol"]["train_images"] == 36
    inner = evaluated(root, train=str(root / "training" / "train"), **options)
    assert inner["accuracy"] == result["accuracy"]
    assert result["accuracy"]["probe"]["original"] > 100 / 9
    assert result["published"][0]["challenge"] == 22.3


def test_a_kept_classifier_of_imagenet_is_a_head(root, network, tmp_path):
    model, options = network
    encoder, file = load_encoder(Common(**options)), tmp_path / "linear-seed0.pt"
    names = [f"n{i:08d}" for i in range(1000)]
    identity = {"weights": encoder.digest, "classes": names}
    layer = {"weight": model.fc.weight.data, "bias": model.fc.bias.data}
    state = {"identity": json.dumps(identity), "step": 1, "model": layer}
    torch.save(state, file)
    result = evaluated(root, head=str(file), **options)
    assert result["accuracy"]["head"] == evaluated(root, **options)["accuracy"]["head"]
    for change, message in (
        ({"identity": json.dumps(identity | {"weights": "other"})}, "another network's features"),
        ({"identity": json.dumps(identity | {"classes": names[:9]})}, "has 9 classes, not Image"),
        ({"optimizer": {}}, "is not finished"),
        ({"model": []}, "not a classifier made by"),
        (
            {"model": layer | {"weight": model.fc.weight.data[:, :9]}},
            "a damaged classifier; 1 of ano",
        ),
    ):
        torch.save(state | change, file)
        with pytest.raises(UsageError, match=message):
            in9.read_head(file, encoder)


def test_a_class_that_a_variant_has_no_image_of_is_left_out(root, network, tmp_path):
    _, options = network
    description = {"name": "dilo-challenge", "classes": ["a", "b"]}
    (tmp_path / "challenge.json").write_text(json.dumps(description))
    both = {"a": "00_dog", "b": "01_bird"}
    for variant, source, folders in (
        ("mixed_same", "mixed_same", both),
        ("mixed_rand", "mixed_rand", {"a": "00_dog"}),
        ("training", "original", both),
    ):
        (tmp_path / variant / "val").mkdir(parents=True)
        for name, folder in folders.items():
            (tmp_path / variant / "val" / name).symlink_to(root / source / "val" / folder)
    result = evaluated(tmp_path, train=str(tmp_path / "training" / "val"), **options)
    found = result["per_class"]["probe"]
    assert set(found["mixed_same"]) == {"a", "b"} and set(found["mixed_rand"]) == {"a"}  # no NaN


def test_bad_input_is_one_line(root, network, tmp_path):
    _, options = network
    for data, more, message in (
        (tmp_path, options, "needs at least mixed_same/val and mixed_rand/val"),
        (root, options | {"untrained": True}, "no classifier: give --train"),
        (root, options | {"train": str(root)}, "needs the nine class folders 00_dog to 08_fish"),
        (root, {}, "give either --run RUN or --weights FILE"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluated(data, **more)


def test_published_rows_are_consistent():
    for row in IN9:
        if {"bg_gap", "mixed_same", "mixed_rand"} <= set(row):
            gap = pytest.approx(row["mixed_same"] - row["mixed_rand"], abs=0.11)
            assert row["bg_gap"] == gap, row["model"]
    assert all("second-hand" in row["source"] for row in IN9 if "MoCo" in row["model"])
