"""kNN against plain numpy, and features that are kept, mapped, projected, or decoded by workers."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.cli import UsageError
from evaluate import features
from evaluate.common import Common
from evaluate.features import extract, load_encoder, project
from evaluate.probes import knn
from train.features import Labelled, batches, to_input
from train.knn import nearest, vote

TEMPERATURE = 0.07


def plain_neighbours(bank, queries, k):
    bank, queries = (
        x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
        for x in (bank, queries)
    )
    cosine = queries @ bank.T
    order = np.argsort(-cosine, axis=1)[:, :k]
    return np.take_along_axis(cosine, order, 1), order


def draw(seed, bank, queries, dimensions):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dimensions)).astype(np.float32) for n in (bank, queries))


@pytest.mark.parametrize(("rows", "at_once"), [(1000, 1000), (7, 3), (64, 50), (1, 1)])
@pytest.mark.parametrize("k", [1, 25, 500])  # 500 is more than there are
def test_blocks_give_what_the_whole_matrix_gives(rows, at_once, k):
    bank, queries = draw(0, 200, 40, 16)
    cosine, found = nearest(bank, queries, k, rows=rows, at_once=at_once)
    expected, order = plain_neighbours(bank, queries, k)
    assert np.array_equal(found.numpy(), order) and np.allclose(cosine.numpy(), expected, atol=1e-6)


def test_a_vote_is_the_sum_of_weights():
    bank, queries = draw(1, 300, 60, 8)
    labels = np.random.default_rng(1).integers(0, 4, 300)
    cosine, order = plain_neighbours(bank, queries, 300)
    for k in (1, 20, 200):
        votes = [
            [np.exp(c[:k][labels[o[:k]] == name] / TEMPERATURE).sum() for name in range(4)]
            for c, o in zip(cosine, order, strict=True)
        ]
        found = vote(*nearest(bank, queries, 200), labels, k, TEMPERATURE, 4)
        assert found.tolist() == np.argmax(votes, axis=1).tolist()


@pytest.mark.parametrize(("temperature", "neighbours"), [(0.01, 1), (1e-6, 1), (1e-6, 20)])
def test_a_small_temperature_is_the_nearest_neighbour(temperature, neighbours):
    """exp(cosine / T) is past float32 there, and the first class that had such a neighbour won."""
    bank, queries = (x + 3 for x in draw(1, 300, 60, 8))
    labels = np.random.default_rng(1).integers(0, 4, 300)
    expected = labels[plain_neighbours(bank, queries, 1)[1][:, 0]].tolist()
    found = vote(*nearest(bank, queries, neighbours), labels, 20, temperature, 4)
    assert found.tolist() == expected


@pytest.fixture
def encoder(moco):
    return load_encoder(Common(weights=moco, stem="small_stride2", device="cpu"))


@pytest.fixture
def train(images):
    return Labelled(str(images / "train"), 32)


def test_head_features_are_the_heads_output(encoder, train):
    found = extract(encoder, train)
    first, relu, last = encoder.head
    with torch.no_grad():
        expected = last(relu(first(torch.from_numpy(found)))).numpy()
    assert np.allclose(project(encoder.head, found, encoder.device), expected, atol=1e-6)


def test_features_are_kept_and_mapped_when_large(encoder, train, tmp_path, monkeypatch):
    plain = extract(encoder, train, batch=9)
    assert plain.dtype == np.float32 and len(plain) == 80
    assert np.array_equal(extract(replace(encoder, workers=2), train, batch=9), plain)
    kept = extract(encoder, train, keep=str(tmp_path))
    assert kept.dtype == np.float16 and np.allclose(kept, plain, atol=1e-3, rtol=1e-3)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = extract(encoder, train, keep=str(tmp_path))
    assert np.array_equal(again, kept) and file.stat().st_mtime_ns == written
    monkeypatch.setattr(features, "LARGE", 100)
    for folder in (tmp_path, "/proc"):  # which cannot be written
        monkeypatch.chdir(folder)
        mapped = extract(encoder, train)
        assert isinstance(mapped, np.memmap) and np.array_equal(mapped, kept)
    assert list(tmp_path.iterdir()) == [file]  # it has no name


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


WHOLE = npy(np.zeros((80, 32), np.float16))
FOREIGN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "cut": WHOLE[:-1],
    "dtype": npy(np.zeros((80, 32), np.float32)),
    "rows": npy(np.zeros((79, 32), np.float16)),
    "dimensions": npy(np.zeros((80, 31), np.float16)),
    "absurd": WHOLE.replace(b"(80, 32), }" + b" " * 12, b"(80, 32000000000000), }"),
    "objects": npy(np.array([{}], object)),
    "archive": b"PK\x03\x04",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_kept_file_from_elsewhere_is_one_line(kind, encoder, train, tmp_path):
    extract(encoder, train, keep=str(tmp_path))
    (file,) = tmp_path.iterdir()
    secret = tmp_path / "secret"  # a link leads to what is not features
    secret.write_bytes(FOREIGN[kind])
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(UsageError, match=r"train-.*npy: not the features of 80 images, 32-d; del"):
        extract(encoder, train, keep=str(tmp_path))
    assert secret.read_bytes() == FOREIGN[kind]


def test_the_loaders_workers_need_no_fork(images):
    """From Python 3.14 on they are not forked: what they are given is pickled."""
    loader = batches(Labelled(str(images / "train"), 16), 1, torch.device("cpu"), batch=2)
    parts = loader.dataset, loader.collate_fn, loader.worker_init_fn
    dataset, collate, _ = pickle.loads(pickle.dumps(parts))
    assert torch.equal(collate(dataset.__getitems__([0, 1])), next(iter(loader)))


def test_knn_with_third_party_weights(moco, data):
    options = {"data": data, "weights": moco, "stem": "small_stride2", "device": "cpu"}
    result = knn.evaluate(knn.Arguments(**options, k=(500, 1)))
    assert set(result["accuracy"]) == {"500", "1", "head 500", "head 1"}
    assert result["protocol"]["k_used"] == [80, 1]
    assert result["protocol"]["head_features"] == "projection head, 6 dimensions"
    untrained = knn.evaluate(knn.Arguments(**options, k=(1,), untrained=True))
    assert untrained["protocol"]["head_features"].startswith("none")
    assert set(untrained["accuracy"]) == {"1"} and "k_used" not in untrained["protocol"]


def test_input_is_normalised_in_channels_last():
    crops = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    found = to_input(crops, torch.device("cpu"))
    expected = (crops[1, 2, 3, 0] / 255 - 0.485) / 0.229
    assert found[1, 0, 2, 3] == pytest.approx(float(expected), abs=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_labels_are_places_in_the_given_classes(images):
    assert Labelled(str(images / "train"), 32, ["class1", "class0"]).labels[0] == 1
    with pytest.raises(UsageError, match=r"class class0 .* is not one that the probe was trained"):
        Labelled(str(images / "train"), 32, ["class1"])
    with pytest.raises(UsageError, match="needs one folder a class"):
        Labelled(str(images / "train" / "class0"), 32)
