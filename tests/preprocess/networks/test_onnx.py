"""Networks in ONNX: real weights against the authors' maps, settings against a plain formula."""

import itertools
import os
import sys

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data.cache.reader import Cache
from data.sources.images import decode
from preprocess import estimators
from preprocess.estimators.onnx import KNOWN
from tests.conftest import TREE, execute, one_line, refused
from tests.preprocess.runs import command, inline, refusal

SETTINGS = {"side": 16, "mean": (0.5, 0.4, 0.3), "std": (1.0, 0.5, 0.25)}
SETTINGS |= {"scale": "255", "activation": "sigmoid", "stretch": "no"}
OPTIONS = "--net-side 16 --mean .5 .4 .3 --std 1 .5 .25 --scale 255 --activation sigmoid"
OPTIONS = [*OPTIONS.split(), "--stretch", "no"]
WEIGHTS = np.array([0.7, -0.4, 0.9], np.float32)


def write(path, batch="n", side=16, channels=1, kind=TensorProto.FLOAT, node="Conv"):
    """A network that weighs the three channels of each pixel by WEIGHTS."""
    weights = np.tile(WEIGHTS.reshape(1, 3, 1, 1), (channels, 1, 1, 1))
    weights = weights.astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [helper.make_node(node, ["x", "w"], ["y"], domain="mine" * (node == "Unheard"))]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, 3, side, side])]
    outputs = [helper.make_tensor_value_info("y", kind, [batch, channels, side, side])]
    initial = [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initial)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return str(path)


def pictures(count=5):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 200, (count, 6, 6, 3), np.uint8)
    return [cv2.resize(s, (16, 16), interpolation=cv2.INTER_CUBIC) for s in small]


@pytest.mark.parametrize("batch", ["n", 1])
def test_settings_are_the_plain_formula(tmp_path, batch):
    file = write(tmp_path / "a.onnx", batch)
    cases = itertools.product(("max", "255"), ("none", "sigmoid"), ("yes", "no"), pictures())
    for scale, activation, stretch, image in cases:
        settings = SETTINGS | {"scale": scale, "activation": activation, "stretch": stretch}
        network = estimators.load("onnx", weights=file, **settings)
        x = image / (image.max() if scale == "max" else 255)
        expected = (x - settings["mean"]) / settings["std"] @ WEIGHTS
        if activation == "sigmoid":
            expected = 1 / (1 + np.exp(-expected))
        if stretch == "yes":
            expected = (expected - expected.min()) / np.ptp(expected)
        assert network.working(image) == pytest.approx(np.clip(expected, 0, 1), abs=1e-5)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(pictures()):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image[..., ::-1])
    return tmp_path / "images"


def test_the_command_makes_a_cache_whose_identity_holds_the_settings(folder, tmp_path):
    file = write(tmp_path / "tiny.onnx", batch=1)
    known = "--estimator", "onnx", "--weights", file, "--side", "16"
    refused = one_line(inline(folder, tmp_path / "c", *known, "--net-side", "16"))
    assert "say --mean, --std, --scale, --activation, --stretch; U" in refused
    options = (*known, *OPTIONS, "--batch", "2", "--shard-size", "2")
    result = inline(folder, tmp_path / "c", *options)
    assert "a fixed batch of 1: images go through it one at a time" in result.stdout, result.stderr
    cache = Cache(tmp_path / "c")
    lists = {"mean": [0.5, 0.4, 0.3], "std": [1.0, 0.5, 0.25]}
    assert cache.description["identity"]["parameters"] == SETTINGS | lists
    network = estimators.load("onnx", weights=file, **SETTINGS)
    for i, image in enumerate(pictures()):
        assert np.array_equal(cache.mask(i), np.rint(network(image) * 255))


def test_a_run_imports_no_torch_in_the_driver_nor_in_a_worker(folder, tmp_path):
    for module in ("torch", "timm", "torchvision"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    code = """import numpy as np
from preprocess.estimators import ESTIMATORS, NETWORKS, create, load
[load(name) for name in ESTIMATORS]
[create(name, side=64).prepare(np.zeros((9, 9, 3), np.uint8)) for name in NETWORKS]"""
    options = "--estimator", "onnx", "--weights", write(tmp_path / "tiny.onnx"), *OPTIONS
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{TREE}"}
    for program in ([sys.executable, "-c", code], command(folder, tmp_path / "c", *options)):
        done = execute(program, env=environment)
        assert done.returncode == 0, done.stderr
    assert "5 of 5 masks computed" in done.stdout


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("<html>"), "no ONNX network that can be loaded"),
        (lambda path: write(path, node="Unheard"), "no ONNX network that can be loaded"),
        (lambda path: write(path, side="s", node="MatMul"), "fails on an image of 16 x 16 px"),
        (lambda path: write(path, channels=3), "no saliency network: its first output is (1, 3, "),
        (lambda path: write(path, kind=TensorProto.FLOAT16), "takes tensor(float16); export it"),
        (lambda path: write(path, side=32), "takes n x 3 x 32 x 32, and not n x 3 x 16 x 16"),
        (lambda path: write(path, batch=4), "takes 4 images at a time"),
        (lambda path: None, "no such file of weights"),
    ],
)
def test_what_is_no_saliency_network_is_one_line(tmp_path, make, message):
    make(tmp_path / "bad.onnx")
    assert message in refusal("onnx", tmp_path / "bad.onnx", **SETTINGS)


def test_files_of_rembg_are_known_by_name_and_found_where_it_keeps_them(tmp_path, monkeypatch):
    monkeypatch.delenv("DILO_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    write(tmp_path / "u2net_human_seg.onnx", side=320)
    for weights in (None, "u2net_human_seg", "u2net_human_seg.onnx"):
        parameters = estimators.load("onnx", weights=weights).parameters
        assert parameters["side"] == 320 and parameters["scale"] == "max"
    for name, activation in (("birefnet-dis", "sigmoid"), ("isnet-anime", "none")):
        network = estimators.create("onnx").for_file(tmp_path / f"{name}.onnx")
        assert (network.side, network.activation) == (1024, activation)
    assert len(KNOWN) == 14
    half = {"weights": "u2net_human_seg", "precision": "bf16"}
    assert "computes in fp32" in refused(estimators.load, "onnx", **half)


def test_real_weights_give_the_authors_maps(shared):
    if not (shared / "weights").is_dir():
        pytest.skip("no weights in the shared data")
    pair = ("u2netp", "u2netp.pth"), ("onnx", "u2netp.onnx")
    real = [estimators.load(name, weights=str(shared / "weights" / file)) for name, file in pair]
    folder = shared / "weights" / "reference_maps"
    for file in sorted(folder.glob("in_*")):
        image = decode(file.read_bytes())
        reference = decode((folder / f"ref_{file.stem[3:]}.png").read_bytes())[..., 0] / 255
        for network in real:
            saliency = cv2.resize(network(image), reference.shape[::-1])
            assert np.corrcoef(saliency.ravel(), reference.ravel())[0, 1] >= 0.998
            assert np.abs(saliency - reference).mean() <= 0.008
