"""Few labels: the split is balanced, nested and listed; both modes run, and repeat, on a tiny
set."""

import json

import cv2
import numpy as np
import pytest

from data.cli import UsageError
from evaluate.probes import few


def test_the_split_is_balanced_fixed_and_nested():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), (100, 80, 120, 90, 110)))
    one, ten = few.balanced(labels, 5, 0.01, 0), few.balanced(labels, 5, 0.10, 0)
    for rows, each in ((one, 1), (ten, 10)):
        assert np.bincount(labels[rows]).tolist() == [each] * 5
    assert set(one) <= set(ten) and np.array_equal(ten, few.balanced(labels, 5, 0.10, 0))
    assert not np.array_equal(ten, few.balanced(labels, 5, 0.10, 1)) and len(np.unique(ten)) == 50
    uneven = few.balanced(labels, 5, 0.104, 0)  # 52 of 500: two classes give eleven
    assert sorted(np.bincount(labels[uneven])) == [10, 10, 10, 11, 11]
    scarce = np.array([0, 0, 0, 0, 0, 1])  # 3 each, but class 1 has one image
    assert len(few.balanced(scarce, 2, 1.0, 0)) == 4


def test_imagenets_counts_are_simclrs():
    """1,281,167 images: SimCLR's lists have 12,811 and 128,116 lines."""
    sizes = np.full(1000, 1281)
    sizes[:167] += 1
    labels = np.repeat(np.arange(1000), sizes)
    for share, count, each in ((0.01, 12812, {12, 13}), (0.1, 128117, {128, 129})):
        rows = few.balanced(labels, 1000, share, 0)
        assert abs(len(rows) - count) <= 1 and set(np.bincount(labels[rows])) == each


def test_lists_name_images_by_path_or_by_name(tmp_path):
    names = "n01/n01_1.JPEG n01/n01_2.JPEG n02/n02_1.JPEG n02/same.JPEG n03/same.JPEG"
    paths = np.array(names.encode().split())
    file = tmp_path / "list.txt"
    file.write_text("n02_1.JPEG\nn01/n01_2.JPEG\r\nn03/same.JPEG\n\n")
    assert few.listed(str(file), paths).tolist() == [1, 2, 4]
    for content, message in (
        ("n09_1.JPEG\n", "n09_1.JPEG is the name of 0 images of the training folder (1 of 1 l"),
        ("same.JPEG", "same.JPEG is the name of 2 images"),
        ("\n", "names no image"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError) as error:
            few.listed(str(file), paths)
        assert message in str(error.value)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Two classes told apart by brightness."""
    root = tmp_path_factory.mktemp("few")
    rng = np.random.default_rng(0)
    for folder, count in (("train", 40), ("val", 10)):
        for name, level in (("dark", 60), ("light", 190)):
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(rng.normal(level, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / folder / name / f"{name}_{i:02d}.png"), image)
    return root


@pytest.fixture
def options(setting, moco, tmp_path) -> dict:
    return {
        "data": str(setting),
        "weights": moco,
        "stem": "small_stride2",
        "size": 16,
        "device": "cpu",
        "json_file": str(tmp_path / "few.json"),
        "epochs": 4,
        "finetune_epochs": 6,
        "batch": 8,
        "lr": 1.0,
        "head_lr": 0.2,
        "backbone_lr": 0.02,
    }


def test_both_modes_learn_and_repeat(options, tmp_path):
    arguments = few.Arguments(percent=(5.0, 25.0), seeds=2, **options)
    result = few.evaluate(arguments)
    accuracy, protocol = result["accuracy"], result["protocol"]
    assert set(accuracy) == {"5% linear", "5% finetune", "25% linear", "25% finetune"}
    assert min(accuracy[f"25% {mode}"]["top-1"] for mode in ("finetune", "linear")) > 80
    assert protocol["labels"] == {"5%": 4, "25%": 20}
    assert protocol["training"]["25% finetune"]["backbone_lr"] == 0.02
    assert "top-1" in result["deviation"]["5% linear"] and json.dumps(result)
    listed = (tmp_path / "few-25percent-seed1.txt").read_text().split()
    assert len(listed) == 20 and sum(line.startswith("dark/") for line in listed) == 10
    assert few.evaluate(arguments) == result  # the kept classifiers are tested again
    file = str(tmp_path / "few-25percent-seed0.txt")
    again = few.evaluate(few.Arguments(labels_list=(file,), modes=("linear",), **options))
    assert again["accuracy"]["few-25percent-seed0 linear"] == result["per_seed"][0]["25% linear"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percent": (0.0,)}, "--percent"),
        ({"modes": ()}, "--modes"),
        ({"labels_list": ("/nowhere.txt",)}, "nowhere"),
        ({"labels_list": ("a/1percent.txt", "b/1percent.txt")}, "two lists of one name"),
        ({"batch": 0}, "--batch 0"),
        ({"lr": -1.0}, "negative"),
    ],
)
def test_bad_options(change, message, options):
    with pytest.raises((UsageError, FileNotFoundError), match=message):
        few.evaluate(few.Arguments(**{**options, **change}))


@pytest.mark.parametrize(("share", "rates"), [(1, (5.0, 0.02)), (10, (0.2, 0.01))])
def test_default_rates_follow_the_share(share, rates):
    schedule = few.schedule_for(few.Arguments("run", "data"), "finetune", share, 0)
    assert (schedule.lr, schedule.backbone_lr) == rates
    assert schedule.epochs == 20 and schedule.decay == "cosine"
