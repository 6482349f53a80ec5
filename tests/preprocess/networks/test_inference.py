"""The authors' preprocessing, and good and bad files of weights."""

import hashlib
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from preprocess import estimators
from preprocess.estimators.u2net import U2NetP
from preprocess.networks.weights import Source, find, unpublished
from tests.conftest import refused
from tests.preprocess.runs import refusal

PICTURE = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (70, 50))


def load(file, **options):
    return estimators.load("u2netp", weights=str(file), side=64, **options)


def test_preprocessing_is_the_authors():
    """Squashed, divided by the image's own maximum, then ImageNet's mean and deviation; RGB."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = 200, 100
    network = U2NetP(side=32)
    batch = np.stack([network.prepare(picture) for picture in (image, image // 2, image * 0)])
    x = network.run(lambda batch: batch, torch.from_numpy(batch))
    assert x.shape == (3, 3, 32, 32) and torch.isfinite(x).all()
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    assert torch.allclose(x[:2, :, 5, 9], expected, atol=1e-5)
    flat = np.full((4, 4), 0.2, np.float32)  # not stretched
    assert np.array_equal(network.finish(flat), flat)


def test_wrapped_and_old_files_fit_and_are_told_apart(weights, tmp_path):
    """Of DistributedDataParallel, and of before torch 0.4, which had no counts of batches."""
    state = torch.load(weights, weights_only=True)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "ddp.pth")
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    first = load(weights)
    assert first.weights == hashlib.sha256(weights.read_bytes()).hexdigest()
    for name in ("ddp.pth", "old.pth"):
        network = load(tmp_path / name)
        assert np.array_equal(network.working(PICTURE), first.working(PICTURE))
        assert network.weights != first.weights


class Code:
    def __reduce__(self):
        return (print, ("this code ran",))


def bomb(_: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], "not a file of weights that can be loaded"),
        (bomb, "not a file of weights"),  # refused before it is unpacked
        ({"outconv.bias": Code()}, "holds a Python object"),
        ({"weight": torch.zeros(3)}, "1 unexpected: weight"),
        ({"stage1.rebnconv1.conv_s1.weight": torch.zeros(3)}, "weight (3,) instead of"),
        ({"outconv.bias": torch.tensor([float("nan")])}, "not finite: outconv.bias"),
        ({"outconv.bias": torch.zeros(1).expand(10**12)}, "outconv.bias (1000000000000,)"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_line(weights, tmp_path, change, message, capsys):
    path = tmp_path / "bad.pth"
    if callable(change):
        path.write_bytes(change(weights.read_bytes()))
    else:
        torch.save(torch.load(weights, weights_only=True) | change, path)
    assert message in refusal("u2netp", path, side=64)
    assert "this code ran" not in capsys.readouterr().out


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    digest = hashlib.md5(b"").hexdigest()
    source = Source(("net.pth", "other.pth"), "example.org", {"net.pth": digest, "other.pth": "0"})
    error = refused(find, "net", source)
    assert "put net.pth or other.pth into" in error and "--weights FILE" in error
    hub, folder = Path(torch.hub.get_dir()) / "checkpoints" / "net.pth", tmp_path / "folder"
    for place in (hub.parent, folder):
        place.mkdir(parents=True)
    hub.touch()
    for variable, file in ((folder, hub), (folder, folder / "other.pth"), (hub, hub)):
        file.touch()
        monkeypatch.setenv("DILO_WEIGHTS", str(variable))
        assert find("net", source) == file
    assert find("net", source, hub.parent) == hub
    assert unpublished(hub, source) is None and unpublished(folder / "other.pth", source) == "0"
    assert "get it from example" in refused(find, "net", source, tmp_path)


def test_bf16_is_close_to_fp32(weights):
    full, half = load(weights), load(weights, precision="bf16")
    x = full.architecture.prepare(PICTURE)[None]
    assert 0 < np.abs(full.forward(x) - half.forward(x)).max() < 0.02
    assert "no precision 'fp8'; there are: fp32" in refused(load, weights, precision="fp8")


def test_a_batch_that_is_too_large_is_want_of_memory(weights, monkeypatch):
    def run(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    network = load(weights)
    monkeypatch.setattr(U2NetP, "run", run)
    with pytest.raises(MemoryError):
        network.forward(np.zeros((1, 32, 32, 3), np.uint8))
