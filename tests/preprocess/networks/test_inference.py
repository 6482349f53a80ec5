"""A network as an estimator: preprocessing as the authors', maps that do not depend on the batch,
and bad weights."""

import hashlib
import pickle
import zipfile

import cv2
import numpy as np
import pytest
import torch

from data.cli import UsageError
from preprocess import estimators
from preprocess.estimators.u2net import U2NetP
from preprocess.networks.weights import Source, find, unpublished
from tests.preprocess.networks.conftest import in_batch


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No weights but those that a test puts somewhere."""
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def load(file, **options):
    return estimators.load("u2netp", weights=str(file), **options)


def picture(width=70):
    small = np.random.default_rng(width).integers(0, 256, (5, 7, 3), np.uint8)
    return cv2.resize(small, (width, 50), interpolation=cv2.INTER_CUBIC)


def test_a_batch_of_two_is_two_singles(weights):
    network = load(weights, side=96)
    images = picture(), picture(71) // 4  # dark: a range taken over the batch would show
    for saliency, image in zip(in_batch(network, images), images, strict=True):
        assert saliency.dtype == np.float32 and saliency.min() == 0 and saliency.max() == 1
        assert np.abs(saliency - network.working(image)).max() < 1e-4
        assert network(image).shape == image.shape[:2]


def test_preprocessing_is_the_authors():
    """Squashed, divided by the image's own maximum, then ImageNet's mean and deviation; RGB."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = 200, 100
    network = U2NetP(side=32)
    batch = np.stack([network.prepare(picture) for picture in (image, image // 2, image * 0)])
    x = network.run(lambda batch: batch, torch.from_numpy(batch))
    assert x.shape == (3, 3, 32, 32) and torch.isfinite(x).all()
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    assert torch.allclose(x[0, :, 5, 9], expected, atol=1e-5)
    assert torch.allclose(x[1], x[0], atol=1e-5)


def test_a_map_without_contrast_is_not_stretched():
    finish, flat = U2NetP().finish, np.full((4, 4), 0.2, np.float32)
    assert np.array_equal(finish(flat), flat)
    stretched = finish(np.array([[0.2, 0.3], [0.25, 0.2]], np.float32))
    assert stretched == pytest.approx(np.array([[0, 1], [0.5, 0]]), abs=1e-5)


def test_refined_maps_follow_the_image(weights):
    network, image = load(weights, refine="guided", side=64), picture()
    plain, refined = load(weights, side=64).working(image), network.working(image)
    assert network.parameters["refine"] == "guided" and refined.shape == image.shape[:2]
    assert network.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert not np.array_equal(refined, cv2.resize(plain, refined.shape[::-1]))


def test_wrapped_and_old_files_fit_and_are_told_apart(weights, tmp_path):
    """Of DistributedDataParallel, and of before torch 0.4, which had no counts of batches."""
    state, image = torch.load(weights, weights_only=True), picture()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "ddp.pth")
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    files = weights, tmp_path / "ddp.pth", tmp_path / "old.pth"
    networks = [load(file, side=64) for file in files]
    for network in networks[1:]:
        assert np.array_equal(network.working(image), networks[0].working(image))
    assert len({network.weights for network in networks}) == 3


class Code:
    def __reduce__(self):
        return (print, ("this code ran",))


BYTES = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: b"\0" * 64 + content[64:],
    "text": lambda content: b"<html>Google Drive - Quota exceeded</html>",
    "empty": lambda content: b"",
    "code": lambda content: pickle.dumps({"outconv.bias": Code()}, protocol=2),
}
CONTENT = {
    "code in torch's own": lambda state: {"outconv.bias": Code()},
    "another network": lambda state: torch.nn.Linear(2, 3).state_dict(),
    "u2net": lambda state: state | {"stage1.rebnconv1.conv_s1.weight": torch.zeros(32, 64, 3, 3)},
    "not finite": lambda state: state | {"outconv.bias": torch.tensor([float("nan")])},
    "sparse": lambda state: state | {"outconv.weight": torch.zeros(1, 6, 1, 1).to_sparse()},
    "a list": lambda state: [torch.zeros(3)],
    "huge": lambda state: state | {"outconv.bias": torch.zeros(1).expand(10**12)},
}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "not a file of weights that can be loaded"),
        ("flipped", "not a file of weights"),
        ("text", "not a file of weights"),
        ("empty", "not a file of weights"),
        ("compressed", "not a file of weights"),  # refused before it is unpacked
        ("code", "holds a Python object"),
        ("code in torch's own", "holds a Python object"),
        ("another network", "u2netp; 686 missing: stage1.rebnconvin.conv_s1.weight, "),
        ("another network", "...; 2 unexpected: weight, bias"),
        ("u2net", "1 of another shape: stage1.rebnconv1.conv_s1.weight (32, 64, 3, 3) instead of"),
        ("not finite", "not finite: outconv.bias"),
        ("sparse", "sparse, quantised or complex: outconv.weight"),
        ("a list", "holds no state_dict"),
        ("huge", "of another shape: outconv.bias (1000000000000,)"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_line(weights, tmp_path, kind, message, capsys):
    path = tmp_path / "bad.pth"
    if kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("archive/data.pkl", b"\0" * 50_000_000)
    elif kind in BYTES:
        path.write_bytes(BYTES[kind](weights.read_bytes()))
    else:
        torch.save(CONTENT[kind](torch.load(weights, weights_only=True)), path)
    with pytest.raises(UsageError) as error:
        load(path)
    line = str(error.value)
    assert message in line and "bad.pth" in line and len(line) < 500
    assert "this code ran" not in capsys.readouterr().out


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    source = Source(("net.pth", "other.pth"), "example.org")
    with pytest.raises(
        UsageError, match=r"put net.pth or other.pth into .*--weights FILE.* from e"
    ):
        find("net", source)
    assert str(source.folders[0]) == torch.hub.get_dir() + "/checkpoints"
    hub = source.folders[0] / "net.pth"
    hub.parent.mkdir(parents=True)
    hub.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    for variable, file in ((folder, hub), (folder, folder / "other.pth"), (hub, hub)):
        file.touch()
        monkeypatch.setenv("DILO_WEIGHTS", str(variable))
        assert find("net", source) == file
    assert find("net", source, hub.parent) == find("net", source, hub) == hub
    for given in (folder / "none.pth", tmp_path):
        with pytest.raises(UsageError, match="get it from example"):
            find("net", source, given)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_file_that_is_not_the_published_one_is_told(tmp_path, kind):
    (tmp_path / "net.pth").write_bytes(b"hello")
    right = hashlib.new(kind, b"hello").hexdigest()
    wrong = "0" + right[1:]
    for files, expected in (({"net.pth": right}, None), ({"net.pth": wrong}, wrong), ({}, None)):
        assert unpublished(tmp_path / "net.pth", Source(("net.pth",), "", files)) == expected


def test_bf16_is_close_to_fp32(weights):
    full, half = load(weights, side=64), load(weights, side=64, precision="bf16")
    x = full.architecture.prepare(picture())[None]
    difference = np.abs(full.forward(x) - half.forward(x))
    assert 0 < difference.max() < 0.02 and half.parameters == {"side": 64, "precision": "bf16"}
    with pytest.raises(UsageError, match="no precision 'fp8'; there are: fp32, bf16"):
        load(weights, precision="fp8")


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to", "DefaultCPUAllocator: can't al"])
def test_a_batch_that_is_too_large_is_told_by_its_kind(weights, monkeypatch, text):
    def run(*_):
        if "CUDA" in text:
            raise torch.OutOfMemoryError(text)
        raise RuntimeError(f"{text}locate memory: you tried to allocate 99 bytes")

    network = load(weights)
    monkeypatch.setattr(U2NetP, "run", run)
    with pytest.raises(MemoryError):
        network.forward(np.zeros((1, 32, 32, 3), np.uint8))
