"""ImageNet-9 in the official layout, made small from the embedded data set, against plain loops."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.synthetic.challenge import Options, make
from data.synthetic.dataset import draw
from evaluate.backgrounds import in9
from evaluate.common import Common
from evaluate.features import accuracy_by_class, load_encoder
from tests.conftest import refused
from train.network import backbone

NAMES = ("00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect")
NAMES += ("06_musical instrument", "07_primate", "08_fish")
FOLDERS = {name: name for name in ("original", "mixed_same", "mixed_rand", "only_fg")}
FOLDERS["only_bg"] = "only_bg_t"
# with the official one's counts: 370 classes to nine, 630 to none
VALUES = np.random.default_rng(0).permutation([*(np.arange(370) % 9), *[-1] * 630])
MAPPING = {str(i): int(value) for i, value in enumerate(VALUES)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """VARIANT/val/00_dog/... and fg_mask, as the official archive has them, but lossless."""
    root = tmp_path_factory.mktemp("in9")
    folders = [f"{folder}/val" for folder in (*FOLDERS.values(), "fg_mask")]
    for folder, name in itertools.product([*folders, "training/train"], NAMES):
        (root / folder / name).mkdir(parents=True)
    for index in (10 * i + label for i in range(4) for label in range(9)):
        scene, file = draw("test", index, size=32), f"{NAMES[index % 10]}/{index}"
        pictures = {f"{FOLDERS[split]}/val": image for split, (image, _) in scene.items()}
        pictures["training/train"] = draw("train", index, size=32)["train"][0]
        for folder, image in pictures.items():
            Image.fromarray(image).save(root / folder / f"{file}.png")
        np.save(root / f"fg_mask/val/{file}.npy", scene["original"][1] >= 128)
    (root / "in_to_in9.json").write_text(json.dumps(MAPPING))
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("network") / "x.pth"
    model = backbone("resnet10", "small_stride2", 8)
    # spread the decisions over the classes: a random network would give a single one
    nn.init.normal_(model.fc.weight, 0, 3)
    torch.save(model.state_dict(), file)
    options = {"weights": str(file), "stem": "small_stride2", "device": "cpu", "workers": 0}
    return model.eval(), options


def pixels(file) -> torch.Tensor:
    image = torch.from_numpy(np.array(Image.open(file).convert("RGB")) / 255)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return ((image - mean) / std).permute(2, 0, 1).float()


def evaluated(data, **options) -> dict:
    return in9.evaluate(in9.Arguments(data=str(data), **options))


def test_the_mappings_counts_are_held_to(root, tmp_path):
    assert in9.read_mapping(root / "in_to_in9.json").tolist() == VALUES.tolist()
    file, mapped = tmp_path / "m.json", next(key for key, value in MAPPING.items() if value == 3)
    for content, message in (
        (MAPPING | {mapped: -1}, "maps 369 of 1000 classes"),
        ([1], "not a mapping"),
        ({key: min(value, 7) for key, value in MAPPING.items()}, "370 of 1000 classes to 8"),
        ({key: str(value) for key, value in MAPPING.items()}, "not a mapping"),
    ):
        file.write_text(json.dumps(content))
        assert message in refused(in9.read_mapping, file)
    assert "in_to_in9.json is in" in refused(in9.read_mapping, tmp_path / "absent.json")


def test_a_head_mapped_as_the_official_script_does_and_a_probe(root, network):
    model, options = network
    result = evaluated(root, challenge=True, train=str(root / "training"), **options)
    found = result["accuracy"]["head"]
    assert set(found) == {*FOLDERS.values(), "bg_gap", "challenge"}
    for variant in FOLDERS.values():
        files = sorted((root / variant / "val").glob("*/*.png"))
        labels = np.array([int(file.parent.name[:2]) for file in files])
        with torch.no_grad():
            decided = model(torch.stack([pixels(file) for file in files])).argmax(1)
        right = VALUES[decided] == labels
        fish = result["per_class"]["head"][variant]["08_fish"]
        assert found[variant] == pytest.approx(100 * right.mean()), variant
        assert fish == pytest.approx(100 * right[labels == 8].mean()), variant
    assert found["bg_gap"] == found["mixed_same"] - found["mixed_rand"]
    assert 0 < found["mixed_same"] < 100  # a network that is always wrong would show nothing
    assert result["accuracy"]["probe"]["original"] > 100 / 9
    assert "no classifier: give --train" in refused(evaluated, root, untrained=True, **options)
    assert accuracy_by_class(np.array([True]), np.array([1]), ["a", "b"]) == {"b": 100}


def test_the_challenge_needs_every_background(root, network):
    """Two classes by one feature; at its threshold some foregrounds survive all backgrounds."""
    encoder, composed = load_encoder(Common(**network[1])), []
    backgrounds = [pixels(f) for f in sorted(root.glob("only_bg_t/val/*/*.png"))]
    for file in sorted(root.glob("fg_mask/val/*/*.npy")):
        mask, label = torch.from_numpy(np.load(file)), int(file.parent.name[:2])
        image = pixels(root / "original" / "val" / file.parent.name / f"{file.stem}.png")
        with torch.no_grad():
            pasted = torch.stack([torch.where(mask, image, b) for b in backgrounds])
            composed.append((label, encoder.model(pasted)[:, 0].numpy()))
    threshold = np.median([values.max() for label, values in composed if label == 0]) + 1e-4
    safe = [((values > threshold) == label).all() for label, values in composed]
    assert 0 < np.mean(safe) < 1

    def decide(features):
        return (features[:, 0] > np.float32(threshold)) * 1

    assert in9.challenge(encoder, decide, str(root), [*NAMES]) == pytest.approx(100 * np.mean(safe))
    assert "of the classes a to b" in refused(in9.challenge, encoder, decide, str(root), ["a", "b"])


def test_a_kept_classifier_of_imagenet_is_a_head(root, network, tmp_path):
    model, options = network
    encoder, file = load_encoder(Common(**options)), tmp_path / "linear-seed0.pt"
    identity = {"weights": encoder.digest, "classes": [f"n{i:08d}" for i in range(1000)]}
    layer = {"weight": model.fc.weight.data, "bias": model.fc.bias.data}
    state = {"identity": json.dumps(identity), "step": 1, "model": layer}
    torch.save(state, file)
    kept, own = evaluated(root, head=str(file), **options), evaluated(root, **options)
    assert kept["accuracy"]["head"] == own["accuracy"]["head"]
    other, few = identity | {"weights": "other"}, identity | {"classes": ["n00000000"] * 9}
    for change, message in (
        ({"identity": json.dumps(other)}, "another network's features"),
        ({"identity": json.dumps(few)}, "has 9 classes, not Image"),
        ({"optimizer": {}}, "is not finished"),
        ({"model": []}, "not a classifier made by"),
        ({"model": layer | {"weight": layer["weight"][:, :9]}}, "a damaged classifier; 1 of ano"),
    ):
        torch.save(state | change, file)
        assert message in refused(in9.read_head, file, encoder)


def test_a_challenge_set_is_finished_whole_and_of_its_split(images, truth_cache, network, tmp_path):
    out, record = tmp_path / "set", tmp_path / "set" / "challenge.json"
    make(images / "train", truth_cache, out, Options(limit=2))

    def said(train: object = images / "train") -> str:
        return refused(evaluated, out, **network[1], train=str(train))

    assert "set: a whole challenge set; give one variant" in said(train=out)
    next(out.glob("only_fg/val/*/*")).unlink()
    assert "only_fg/val: has 3 of 4 images; the same `python -m data" in said()
    record.write_text(json.dumps(json.loads(record.read_text()) | {"split": "train"}))
    assert "made with --split train, to train on; give one of its" in said()
    record.rename(out / "challenge.json.tmp")
    assert "set: unfinished; the same `python -m data challenge` co" in said()
