"""A network as an estimator: preprocessing as the authors', maps that do not depend on the batch,
and bad weights."""

import pickle
import subprocess
import zipfile

import cv2
import numpy as np
import pytest
import torch

from data.cli import UsageError
from preprocess import estimators
from preprocess.estimators.u2netp import U2NetP
from preprocess.networks import squashed
from preprocess.networks.weights import Source, find, unpublished


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No weights but those that a test puts somewhere."""
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "u2netp.pth"
    torch.save(U2NetP().build().state_dict(), path)
    return path


def pictures(count=2, height=50, width=70):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 5, 7, 3), np.uint8)
    return [
        cv2.resize(s, (width + i, height), interpolation=cv2.INTER_CUBIC)
        for i, s in enumerate(small)
    ]


def test_a_batch_of_two_is_two_singles(weights):
    network = estimators.load("u2netp", weights=str(weights), side=96)
    one, two = pictures()
    two = (two // 4).astype(
        np.uint8
    )  # dark, with a map of its own range: one taken over the batch would show
    batch = network.batch([one, two])
    for found, image in zip(batch, (one, two), strict=True):
        assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1
        assert np.abs(found - network.working(image)).max() < 1e-4
        assert network(image).shape == image.shape[:2]


def test_preprocessing_is_the_authors():
    """Squashed, divided by the image's own maximum, then ImageNet's mean and deviation; RGB."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = 200, 100
    prepare = U2NetP(side=32).prepare
    x = squashed.to_tensor_lab(torch.from_numpy(np.stack([prepare(image), prepare(image // 2)])))
    assert x.shape == (2, 3, 32, 32)
    expected = torch.tensor([(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    assert torch.allclose(x[0, :, 5, 9], expected, atol=1e-5) and torch.allclose(
        x[1], x[0], atol=1e-5
    )
    assert torch.isfinite(squashed.to_tensor_lab(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))).all()


def test_a_map_without_contrast_is_not_stretched():
    finish, flat = U2NetP().finish, np.full((4, 4), 0.2, np.float32)
    assert np.array_equal(finish(flat), flat)
    stretched = finish(np.array([[0.2, 0.3], [0.25, 0.2]], np.float32))
    assert stretched == pytest.approx(np.array([[0, 1], [0.5, 0]]), abs=1e-5)


def test_refined_maps_follow_the_image(weights):
    network = estimators.load("u2netp", weights=str(weights), refine="guided", side=64)
    image = pictures()[0]
    plain = estimators.load("u2netp", weights=str(weights), side=64).working(image)
    refined = network.working(image)
    assert network.parameters["refine"] == "guided" and refined.shape == image.shape[:2]
    assert not np.array_equal(refined, cv2.resize(plain, refined.shape[::-1]))


def test_weights_are_known_by_their_sha256(weights, tmp_path):
    first = estimators.load("u2netp", weights=str(weights))
    state = torch.load(weights, weights_only=True)
    state["outconv.bias"] += 1
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "other.pth")
    second = estimators.load("u2netp", weights=str(tmp_path / "other.pth"))
    digest = subprocess.run(
        ["sha256sum", str(weights)], capture_output=True, text=True
    ).stdout.split()[0]
    assert first.weights == digest != second.weights
    image = pictures()[0]
    x = first.prepare(image)[None]
    assert not np.array_equal(first.forward(x), second.forward(x))
    assert first.working(image).shape == (320, 320)


def test_files_of_before_torch_0_4_fit(weights, tmp_path):
    state = {
        k: v for k, v in torch.load(weights, weights_only=True).items() if "num_batches" not in k
    }
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old, new = (estimators.load("u2netp", weights=str(p)) for p in (tmp_path / "old.pth", weights))
    assert np.array_equal(old.working(pictures()[0]), new.working(pictures()[0]))


class Code:
    def __reduce__(self):
        return (print, ("this code ran",))


def archive(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 50_000_000)


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
        archive(path)
    elif kind in BYTES:
        path.write_bytes(BYTES[kind](weights.read_bytes()))
    else:
        torch.save(CONTENT[kind](torch.load(weights, weights_only=True)), path)
    with pytest.raises(UsageError) as error:
        estimators.load("u2netp", weights=str(path))
    line = str(error.value)
    assert message in line and "bad.pth" in line and len(line) < 500
    assert "this code ran" not in capsys.readouterr().out


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    source = Source(("net.pth", "other.pth"), "example.org", {"net.pth": "md5 123"})
    with pytest.raises(
        UsageError, match=r"put net.pth or other.pth into .*--weights FILE.*\(net.pth: md5 123"
    ):
        find("net", source)
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / "net.pth").touch()
    assert find("net", source) == hub / "net.pth"
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("DILO_WEIGHTS", str(folder))
    assert find("net", source) == hub / "net.pth"
    (folder / "other.pth").touch()
    assert find("net", source) == folder / "other.pth"
    monkeypatch.setenv("DILO_WEIGHTS", str(folder / "mine.pth"))
    (folder / "mine.pth").touch()
    assert find("net", source) == folder / "mine.pth"
    assert find("net", source, hub) == find("net", source, hub / "net.pth") == hub / "net.pth"
    for given in (folder / "none.pth", tmp_path):
        with pytest.raises(UsageError, match=r"get it from example.org \(net.pth: md5 123"):
            find("net", source, given)


def test_a_file_that_is_not_the_published_one_is_told(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"hello")
    right, wrong = "md5 5d41402abc4b2a76b9719d911017c592", "md5 0d41402abc4b2a76b9719d911017c592"
    assert unpublished(tmp_path / "net.pth", Source(("net.pth",), "", {"net.pth": right})) is None
    assert unpublished(tmp_path / "net.pth", Source(("net.pth",), "", {"net.pth": wrong})) == wrong
    assert unpublished(tmp_path / "net.pth", Source(("net.pth",), "", {"mine.pth": wrong})) is None


def test_bf16_is_close_to_fp32(weights):
    image = pictures()[0]
    full = estimators.load("u2netp", weights=str(weights), side=64)
    half = estimators.load("u2netp", weights=str(weights), side=64, precision="bf16")
    x = np.stack([full.prepare(image)])
    difference = np.abs(full.forward(x) - half.forward(x))
    assert 0 < difference.max() < 0.02 and half.parameters == {"side": 64, "precision": "bf16"}
    with pytest.raises(UsageError, match="no precision 'fp8'; there are: fp32, bf16"):
        estimators.load("u2netp", weights=str(weights), precision="fp8")


def test_the_hub_folder_is_torchs():
    from preprocess.networks.weights import hub_folder

    assert str(hub_folder()) == torch.hub.get_dir() + "/checkpoints"
