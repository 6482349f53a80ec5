"""Few labels: the split is balanced, nested and listed; both modes run and repeat."""

import numpy as np

from evaluate.probes import few
from tests.conftest import refused
from tests.evaluate.folders import pictures


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


def test_lists_name_images_by_path_or_by_name(tmp_path):
    names = "n01/n01_1.JPEG n01/n01_2.JPEG n02/n02_1.JPEG n02/same.JPEG n03/same.JPEG"
    paths = np.array(names.encode().split())
    file = tmp_path / "list.txt"
    file.write_text("n02_1.JPEG\nn01/n01_2.JPEG\r\nn03/same.JPEG\n\n")
    assert few.listed(str(file), paths).tolist() == [1, 2, 4]
    wrong = {"n09_1.JPEG": "name of 0 images of the training folder", "\n": "names no image"}
    for content, message in (wrong | {"same.JPEG": "same.JPEG is the name of 2 images"}).items():
        file.write_text(content)
        assert message in refused(few.listed, str(file), paths)


def test_both_modes_learn_and_repeat(network, tmp_path):
    classes = {"dark": (60, 60, 60), "light": (190, 190, 190)}
    options = {**network, "batch": 8, "size": 16, "json_file": str(tmp_path / "few.json")}
    options |= {"lr": 1.0, "head_lr": 0.2, "backbone_lr": 0.02, "epochs": 4, "finetune_epochs": 6}
    options["data"] = pictures(tmp_path / "data", classes, (40, 10), 0, 30)
    arguments = few.Arguments(percent=(5.0, 25.0), seeds=2, **options)
    result = few.evaluate(arguments)
    accuracy, protocol = result["accuracy"], result["protocol"]
    assert set(accuracy) == {"5% linear", "5% finetune", "25% linear", "25% finetune"}
    assert min(accuracy[f"25% {mode}"]["top-1"] for mode in ("finetune", "linear")) > 80
    assert protocol["labels"] == {"5%": 4, "25%": 20}
    assert protocol["training"]["25% finetune"]["backbone_lr"] == 0.02
    assert "top-1" in result["deviation"]["5% linear"]
    listed = (tmp_path / "few-25percent-seed1.txt").read_text().split()
    assert len(listed) == 20 and sum(line.startswith("dark/") for line in listed) == 10
    assert few.evaluate(arguments) == result  # the kept classifiers are tested again
    lists = (str(tmp_path / "few-25percent-seed0.txt"),)
    again = few.evaluate(few.Arguments(labels_list=lists, modes=("linear",), **options))
    assert again["accuracy"]["few-25percent-seed0 linear"] == result["per_seed"][0]["25% linear"]
