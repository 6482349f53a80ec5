"""Networks in ONNX: real weights against the authors' maps, settings against a plain formula."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import decode, list_images, read_bytes
from preprocess import estimators
from preprocess.estimators.onnx import KNOWN
from tests.preprocess.networks.conftest import in_batch
from tests.preprocess.runs import TREE, content, inline, one_line

SETTINGS = {"side": 16, "mean": (0.5, 0.4, 0.3), "std": (1.0, 0.5, 0.25)}
SETTINGS |= {"scale": "255", "activation": "sigmoid", "stretch": "no"}
OPTIONS = "--net-side 16 --mean .5 .4 .3 --std 1 .5 .25 --scale 255 --activation sigmoid --stretch "
OPTIONS += "no"
WEIGHTS = np.array([0.7, -0.4, 0.9], np.float32)


def write(path, batch="n", side=16, channels=1, kind=TensorProto.FLOAT, nodes=None, output=None):
    """A network that weighs the three channels of each pixel by WEIGHTS."""
    weights = np.tile(WEIGHTS.reshape(1, 3, 1, 1), (channels, 1, 1, 1))
    if kind == TensorProto.FLOAT16:
        weights = weights.astype(np.float16)
    nodes = nodes or [helper.make_node("Conv", ["x", "w"], ["y"])]
    shape = output or [batch, channels, side, side]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, 3, side, side])]
    outputs = [helper.make_tensor_value_info("y", kind, shape)]
    initial = [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initial)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


def pictures(count=5):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 200, (count, 6, 6, 3), np.uint8)
    return [cv2.resize(s, (16, 16), interpolation=cv2.INTER_CUBIC) for s in small]


@pytest.mark.parametrize("scale", ["max", "255"])
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
@pytest.mark.parametrize("stretch", ["yes", "no"])
@pytest.mark.parametrize("batch", ["n", 1])
def test_settings_are_the_plain_formula(tmp_path, scale, activation, stretch, batch):
    settings = SETTINGS | {"scale": scale, "activation": activation, "stretch": stretch}
    network = estimators.load("onnx", weights=write(tmp_path / "a.onnx", batch), **settings)
    assert network.single == (batch == 1)
    for image, saliency in zip(pictures(), in_batch(network, pictures()), strict=True):
        x = image / (image.max() if scale == "max" else 255)
        expected = (x - settings["mean"]) / settings["std"] @ WEIGHTS
        if activation == "sigmoid":
            expected = 1 / (1 + np.exp(-expected))
        if stretch == "yes":
            expected = (expected - expected.min()) / np.ptp(expected)
        assert saliency == pytest.approx(np.clip(expected, 0, 1), abs=1e-5)
        assert saliency.dtype == np.float32 and saliency.shape == (16, 16)


@pytest.fixture
def folder(tmp_path):
    """A folder of images."""
    (tmp_path / "images").mkdir()
    for i, image in enumerate(pictures()):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image[..., ::-1])
    return tmp_path / "images"


def test_the_command_makes_a_cache_whose_identity_holds_the_settings(folder, tmp_path):
    file = write(tmp_path / "tiny.onnx", batch=1)
    known = "--estimator", "onnx", "--weights", file, "--side", "16"
    refused = one_line(inline(folder, tmp_path / "c", *known, "--net-side", "16"))
    assert "say --mean, --std, --scale, --activation, --stretch; U" in refused
    options = (*known, *OPTIONS.split(), "--batch", "2", "--shard-size", "2")
    result = inline(folder, tmp_path / "c", *options)
    assert result.returncode == 0, result.stderr
    assert "a fixed batch of 1: images go through it one at a time" in result.stdout
    identity = json.loads((tmp_path / "c" / "cache.json").read_text())["identity"]
    lists = {"mean": [0.5, 0.4, 0.3], "std": [1.0, 0.5, 0.25]}
    assert identity["parameters"] == SETTINGS | lists
    network = estimators.load("onnx", weights=file, **SETTINGS)
    assert identity["weights"] == network.weights
    expected = np.stack([np.rint(network(image) * 255) for image in pictures()])
    cache = Cache(tmp_path / "c")
    assert np.array_equal(np.stack([cache.mask(i) for i in range(5)]), expected)
    for part in ("2/2", "1/2"):
        assert inline(folder, tmp_path / "parts", *options, "--part", part).returncode == 0
    assert content(tmp_path / "parts") == content(tmp_path / "c")


def test_a_run_imports_no_torch_in_the_driver_nor_in_a_worker(folder, tmp_path):
    for module in ("torch", "timm", "torchvision"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    file = write(tmp_path / "tiny.onnx")
    options = ["--estimator", "onnx", "--weights", file, *OPTIONS.split(), "--workers", "1"]
    command = [sys.executable, "-m", "preprocess", folder, tmp_path / "c", *options]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{TREE}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "5 of 5 masks computed" in done.stdout, done.stderr


def custom(path):
    return write(path, nodes=[helper.make_node("Unheard", ["x", "w"], ["y"], domain="mine")])


def classes(path):
    pool = helper.make_node("GlobalAveragePool", ["x"], ["p"])
    return write(path, nodes=[pool, helper.make_node("Flatten", ["p"], ["y"])], output=["n", 3])


def failing(path):
    """A network that loads, and fails on every image."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return write(path, side="s", nodes=nodes, output=["n", "k"])


def external(path):
    model = onnx.load(write(path))
    big = numpy_helper.from_array(np.zeros((1, 3, 64, 64), np.float32), "big")
    model.graph.initializer.append(big)
    onnx.save(model, path, save_as_external_data=True, location="data.bin", size_threshold=0)
    (path.parent / "data.bin").unlink()
    return str(path)


def text(path):
    path.write_text("<html>Not found</html>")
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, "no ONNX network that can be loaded"),
        (external, "no ONNX network that can be loaded"),
        (custom, "no ONNX network that can be loaded"),
        (classes, "no saliency network: its first output is (1, 3), not (n, 1, h, w)"),
        (failing, "fails on an image of 16 x 16 px"),
        (lambda path: write(path, channels=3), "no saliency network: its first output is (1, 3, "),
        (lambda path: write(path, kind=TensorProto.FLOAT16), "takes tensor(float16); export it"),
        (lambda path: write(path, side=32), "takes n x 3 x 32 x 32, and not n x 3 x 16 x 16"),
        (lambda path: write(path, batch=4), "takes 4 images at a time"),
        (lambda path: str(path), "no such file of weights"),
    ],
)
def test_what_is_no_saliency_network_is_one_line(tmp_path, make, message):
    with pytest.raises(UsageError) as error:
        estimators.load("onnx", weights=make(tmp_path / "bad.onnx"), **SETTINGS)
    line = str(error.value)
    assert message in line and "bad.onnx" in line and len(line) < 600 and "\n" not in line


def test_files_of_rembg_are_known_by_name_and_found_where_it_keeps_them(tmp_path, monkeypatch):
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    write(tmp_path / "u2net_human_seg.onnx", side=320)
    for weights in (None, "u2net_human_seg", "u2net_human_seg.onnx"):
        network = estimators.load("onnx", weights=weights)
        assert network.parameters["side"] == 320 and network.parameters["scale"] == "max"
        assert network.parameters["mean"] == [0.485, 0.456, 0.406]
    for name, activation in (("birefnet-dis", "sigmoid"), ("isnet-anime", "none")):
        network = estimators.create("onnx").for_file(tmp_path / f"{name}.onnx")
        assert (network.side, network.activation) == (1024, activation)
    assert len(KNOWN) == 14
    with pytest.raises(UsageError, match="computes in fp32"):
        estimators.load("onnx", weights="u2net_human_seg", precision="bf16")


@pytest.fixture(scope="module")
def real(shared):
    if not (shared / "weights").is_dir():
        pytest.skip("no weights in the shared data")
    folder = shared / "weights"
    pair = ("u2netp", folder / "u2netp.pth"), ("onnx", folder / "u2netp.onnx")
    return [estimators.load(name, weights=str(file)) for name, file in pair]


def test_real_weights_give_the_authors_maps(real, shared):
    folder = shared / "weights" / "reference_maps"
    for file in sorted(folder.glob("in_*")):
        image = decode(file.read_bytes())
        reference = decode((folder / f"ref_{file.stem[3:]}.png").read_bytes())[..., 0] / 255
        for network in real:
            saliency = cv2.resize(network(image), reference.shape[::-1])
            assert np.corrcoef(saliency.ravel(), reference.ravel())[0, 1] >= 0.998
            assert np.abs(saliency - reference).mean() <= 0.008


def test_both_runtimes_agree_within_two_levels(real, shared):
    root = str(shared / "imagenet_sample")
    for path in list_images(root).tolist()[::50]:
        image = decode(read_bytes(root, path))
        maps = [np.rint(255 * network.working(image)) for network in real]
        assert np.abs(maps[0] - maps[1]).max() <= 2
