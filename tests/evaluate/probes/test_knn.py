"""kNN against plain numpy, and features that are kept, mapped, projected, or decoded by workers."""

import io
import pickle
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from evaluate import features
from evaluate.probes import knn
from tests.conftest import refused
from train.knn import knn_top1, nearest, vote

# exp(cosine / T) is past float32 at the small temperatures, where the nearest neighbour decides
VOTES = [(1, 0.07, 0, (1000, 1000)), (20, 0.07, 0, (7, 3)), (500, 0.07, 0, (64, 50))]
VOTES += [(1, 0.01, 3, (1, 1)), (20, 1e-6, 3, (300, 60))]


@pytest.mark.parametrize(("k", "temperature", "shift", "blocks"), VOTES)
def test_neighbours_and_their_vote(k, temperature, shift, blocks):
    rng = np.random.default_rng(1)
    bank, queries = (rng.normal(shift, 1, (n, 8)).astype(np.float32) for n in (300, 60))
    labels = rng.integers(0, 4, 300)
    norms = [np.linalg.norm(x.astype(float), axis=1) for x in (queries, bank)]
    cosine = queries.astype(float) @ bank.T / np.outer(*norms)
    order = np.argsort(-cosine, axis=1)[:, :k]
    cosine = np.take_along_axis(cosine, order, 1)
    near = nearest(bank, queries, 500, rows=blocks[0], at_once=blocks[1])
    assert np.array_equal(near[1][:, :k], order) and np.allclose(near[0][:, :k], cosine, atol=1e-6)
    weights = np.exp((cosine - cosine[:, :1]) / temperature)
    expected = np.argmax([(weights * (labels[order] == name)).sum(1) for name in range(4)], 0)
    assert vote(*near, labels, k, temperature, 4).tolist() == expected.tolist()
    assert knn_top1((bank, labels), (queries, expected), (k, 9), temperature, 4)[0] == 1


@pytest.fixture
def train(images):
    return features.Labelled(str(images / "train"), 32)


def test_features_are_kept_and_mapped_when_large(network, train, tmp_path, monkeypatch):
    encoder = features.load_encoder(knn.Common(**network))
    plain = features.extract(encoder, train, batch=9)
    assert plain.dtype == np.float32 and len(plain) == 80
    assert np.array_equal(features.extract(replace(encoder, workers=2), train, batch=9), plain)
    loader = features.batches(train, 1, encoder.device, batch=9)
    pickle.dumps((loader.dataset, loader.collate_fn, loader.worker_init_fn))  # for Python 3.14
    kept = features.extract(encoder, train, keep=str(tmp_path))
    assert kept.dtype == np.float16 and np.allclose(kept, plain, atol=1e-3, rtol=1e-3)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    again = features.extract(encoder, train, keep=str(tmp_path))
    assert np.array_equal(again, kept) and file.stat().st_mtime_ns == written
    monkeypatch.setattr(features, "LARGE", 100)
    for folder in (tmp_path, "/proc"):  # which cannot be written
        monkeypatch.chdir(folder)
        mapped = features.extract(encoder, train)
        assert isinstance(mapped, np.memmap) and np.array_equal(mapped, kept)
    assert list(tmp_path.iterdir()) == [file]  # it has no name


def npy(rows: int, dtype: type) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((rows, 32), dtype))
    return file.getvalue()


WHOLE = npy(80, np.float16)
FOREIGN = [b"", b"PK\x03\x04", WHOLE[:-1], npy(80, np.float32), npy(79, np.float16)]
FOREIGN += [npy(80, object), WHOLE.replace(b"(80, 32), }" + b" " * 12, b"(80, 32000000000000), }")]


def test_a_kept_file_from_elsewhere_is_one_line(network, train, tmp_path):
    encoder = features.load_encoder(knn.Common(**network))
    kept = partial(features.extract, encoder, train, keep=str(tmp_path / "kept"))
    message = r"train-.*npy: not the features of 80 images, 32-d; del"
    kept()
    (file,) = (tmp_path / "kept").iterdir()
    for content in (*FOREIGN, WHOLE):
        file.write_bytes(content)
        if content == WHOLE:  # but a link
            file.symlink_to(file.rename(tmp_path / "elsewhere"))
        assert re.search(message, refused(kept)) and file.read_bytes() == content


def test_knn_with_third_party_weights(network, data):
    result = knn.evaluate(knn.Arguments(data=data, **network, k=(500, 1)))
    assert set(result["accuracy"]) == {"500", "1", "head 500", "head 1"}
    protocol = result["protocol"]
    assert protocol["k_used"] == [80, 1] and protocol["train_images"] == 80
    assert protocol["head_features"] == "projection head, 6 dimensions"
    untrained = knn.evaluate(knn.Arguments(data=data, **network, k=(1,), untrained=True))
    assert untrained["protocol"]["head_features"].startswith("none")
    assert set(untrained["accuracy"]) == {"1"} and "k_used" not in untrained["protocol"]


def test_labels_are_places_in_the_given_classes(images, tmp_path):
    (tmp_path / "train").symlink_to(images / "train")
    assert features.Labelled(str(images / "train"), 32, ["class1", "class0"]).labels[0] == 1
    labelled = partial(refused, features.Labelled)
    assert "is not one that the probe was" in labelled(str(images / "train"), 32, ["class1"])
    assert "needs one folder a class" in labelled(str(images / "train" / "class0"), 32)
    assert "one class, train; give the folder that holds the class" in labelled(str(tmp_path), 32)
