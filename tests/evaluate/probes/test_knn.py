"""Chunked kNN against plain numpy, and features that are kept, mapped or projected."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluate import features
from evaluate.features import Encoder, extract, load_encoder, project
from evaluate.probes import knn
from train.network import backbone


def plain_neighbours(bank, queries, k):
    unit = [
        x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
        for x in (bank, queries)
    ]
    cosine = unit[1] @ unit[0].T
    order = np.argsort(-cosine, axis=1)[:, :k]
    return np.take_along_axis(cosine, order, 1), order


@pytest.mark.parametrize(("rows", "at_once"), [(1000, 1000), (7, 3), (64, 50), (1, 1)])
def test_blocks_give_what_the_whole_matrix_gives(rows, at_once):
    rng = np.random.default_rng(0)
    bank, queries = (
        rng.normal(size=(200, 16)).astype(np.float32),
        rng.normal(size=(40, 16)).astype(np.float32),
    )
    cosine, found = knn.nearest(bank, queries, 25, rows=rows, at_once=at_once)
    expected, order = plain_neighbours(bank, queries, 25)
    assert np.array_equal(found.numpy(), order) and np.allclose(cosine.numpy(), expected, atol=1e-6)


def test_a_vote_is_the_sum_of_weights():
    rng = np.random.default_rng(1)
    bank, queries = (
        rng.normal(size=(300, 8)).astype(np.float32),
        rng.normal(size=(60, 8)).astype(np.float32),
    )
    labels = rng.integers(0, 4, 300)
    cosine, order = plain_neighbours(bank, queries, 300)
    for k in (1, 20, 200):
        votes = [
            [np.exp(c[:k][labels[o[:k]] == name] / 0.07).sum() for name in range(4)]
            for c, o in zip(cosine, order, strict=True)
        ]
        found = knn.vote(*knn.nearest(bank, queries, 200), labels, k, 0.07, 4)
        assert found.tolist() == np.argmax(votes, axis=1).tolist()


def test_a_small_temperature_is_the_nearest_neighbour():
    """exp(cosine / T) is past float32 there, and the first class that had such a neighbour won."""
    rng = np.random.default_rng(1)
    bank, queries = (rng.normal(size=(n, 8)).astype(np.float32) + 3 for n in (300, 60))
    labels = rng.integers(0, 4, 300)
    nearest = labels[plain_neighbours(bank, queries, 1)[1][:, 0]]
    for temperature in (0.01, 1e-6):
        found = knn.vote(*knn.nearest(bank, queries, 1), labels, 20, temperature, 4)
        assert found.tolist() == nearest.tolist()
    assert (
        knn.vote(*knn.nearest(bank, queries, 20), labels, 20, 1e-6, 4).tolist() == nearest.tolist()
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A narrow network with a projection head, in MoCo's keys."""
    torch.manual_seed(0)
    model = backbone("resnet10", "small_stride2", 4)
    model.fc = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    file = tmp_path_factory.mktemp("weights") / "moco.pth.tar"
    torch.save(
        {"state_dict": {f"module.encoder_q.{k}": v for k, v in model.state_dict().items()}}, file
    )
    return str(file)


def test_head_features_are_the_heads_output(weights, images):
    encoder = load_encoder(weights=weights, stem="small_stride2", device="cpu")
    found, _, _ = extract(encoder, str(images / "train"))
    with torch.no_grad():
        expected = encoder.head[2](
            encoder.head[1](encoder.head[0](torch.from_numpy(found)))
        ).numpy()
    assert np.allclose(project(encoder.head, found, encoder.device), expected, atol=1e-6)


def test_features_are_kept_and_mapped_when_large(weights, images, tmp_path, monkeypatch):
    encoder = load_encoder(weights=weights, stem="small_stride2", device="cpu")
    root = str(images / "train")
    plain, labels, _ = extract(encoder, root, batch=9)
    assert plain.dtype == np.float32 and len(labels) == len(plain) == 80
    kept, _, _ = extract(encoder, root, keep=str(tmp_path))
    assert kept.dtype == np.float16 and np.allclose(kept, plain, atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(features, "forward", None)  # the second time, nothing is computed
    again, _, _ = extract(encoder, root, keep=str(tmp_path))
    assert np.array_equal(again, kept) and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "LARGE", 100)
    mapped, _, _ = extract(encoder, root)
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, kept)


def test_workers_do_not_change_features(weights, images):
    encoder = load_encoder(weights=weights, stem="small_stride2", device="cpu")
    one, two = (extract(encoder, str(images / "train"), batch=16, workers=n)[0] for n in (0, 2))
    assert np.array_equal(one, two)


def test_knn_with_anybodys_weights(weights, images, tmp_path):
    for folder in ("train", "val"):
        (tmp_path / folder).symlink_to(images / "train")
    result = knn.evaluate(
        knn.Arguments(
            data=str(tmp_path), weights=weights, stem="small_stride2", k=(5, 1), device="cpu"
        )
    )
    assert (
        result["accuracy"]["1"] == result["accuracy"]["head 1"] == 100
    )  # every query is in the bank
    assert set(result["accuracy"]) == {"5", "1", "head 5", "head 1"}
    assert result["protocol"]["head_features"] == "projection head, 6 dimensions"
    untrained = knn.evaluate(
        knn.Arguments(
            data=str(tmp_path), weights=weights, stem="small_stride2", k=(1,), untrained=True
        )
    )
    assert untrained["protocol"]["head_features"].startswith("none") and set(
        untrained["accuracy"]
    ) == {"1"}


def test_input_is_normalised_in_channels_last(images):
    crops = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    found = features.to_input(crops, torch.device("cpu"))
    expected = (crops[1, 2, 3, 0] / 255 - 0.485) / 0.229
    assert found[1, 0, 2, 3] == pytest.approx(float(expected), abs=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(Encoder(nn.Identity(), 8, torch.device("cpu")).crop, str)
