"""Any saliency network in an ONNX file, described by six settings."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.cli import UsageError
from preprocess.networks.base import MEAN, STD, Architecture
from preprocess.networks.weights import Source, checksums
from preprocess.vision.pixels import sigmoid

U2NET = {
    "side": 320,
    "mean": MEAN,
    "std": STD,
    "scale": "max",
    "activation": "none",
    "stretch": "yes",
}
BRIA = U2NET | {"side": 1024}
ANIME = BRIA | {"std": (1.0, 1.0, 1.0)}
ISNET = ANIME | {"mean": (0.5, 0.5, 0.5)}
BIREFNET = BRIA | {"activation": "sigmoid"}
# rembg's names of files, their MD5 (of bria-rmbg the SHA-256) and their settings there
KNOWN = {
    "u2net": ("60024c5c889badc19c04ad937298a77b", U2NET),
    "u2netp": ("8e83ca70e441ab06c318d82300c84806", U2NET),
    "u2net_human_seg": ("c09ddc2e0104f800e3e1bb4652583d1f", U2NET),
    "silueta": ("55e59e0d8062d2f5d013f4725ee84782", U2NET),
    "isnet-general-use": ("fc16ebd8b0c10d971d3513d564d01e29", ISNET),
    "isnet-anime": ("6f184e756bb3bd901c8849220a83e38e", ANIME),
    "birefnet-general": ("7a35a0141cbbc80de11d9c9a28f52697", BIREFNET),
    "birefnet-general-lite": ("4fab47adc4ff364be1713e97b7e66334", BIREFNET),
    "birefnet-portrait": ("c3a64a6abf20250d090cd055f12a3b67", BIREFNET),
    "birefnet-dis": ("2d4d44102b446f33a4ebb2e56c051f2b", BIREFNET),
    "birefnet-hrsod": ("c017ade5de8a50ff0fd74d790d268dda", BIREFNET),
    "birefnet-cod": ("f6d0d21ca89d287f17e7afe9f5fd3b45", BIREFNET),
    "birefnet-massive": ("33e726a2136a3d59eb0fdf613e31e3e9", BIREFNET),
    "bria-rmbg": (
        "5b486f08200f513f460da46dd701db5fbb47d79b4be4b708a19444bcd4e79958",
        BRIA,
    ),
}
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class ONNX(Architecture):
    """A network whose first output is one map an image, (n, 1, h, w) or (n, h, w).

    A setting that is None is taken from KNOWN, by the file's name or its checksum.

    Args:
        side: of the squashed image that it takes, px.
        mean, std: of each channel, after scaling.
        scale: what the image is divided by: its own "max", or "255".
        activation: of the output: "none" (it is within the file) or "sigmoid".
        stretch: "yes": the map is stretched to [0, 1] by its least and largest value.
    """

    name = "onnx"
    runner = "preprocess.networks.onnx:load"
    source = Source(
        tuple(f"{name}.onnx" for name in KNOWN),
        "github.com/danielgatis/rembg/releases/tag/v0.0.0, or `rembg d NAME`",
        {f"{name}.onnx": digest for name, (digest, _) in KNOWN.items()},
        rembg=True,
    )
    side: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: str | None = None
    activation: str | None = None
    stretch: str | None = None

    def __post_init__(self):
        if self.side is not None and not 16 <= self.side <= LARGEST_SIDE:
            raise UsageError(f"onnx: side must be 16 to {LARGEST_SIDE}")
        if self.std is not None and (len(self.std) != 3 or min(self.std) <= 0):
            raise UsageError("onnx: std must be three numbers above 0")

    def for_file(self, path: Path) -> "ONNX":
        """With the settings of a known file; UsageError where an unknown one leaves some open."""
        missing = [name for name in U2NET if getattr(self, name) is None]
        family = _family(path) if missing else None
        if missing and not family:
            flags = ", ".join(f"--{name}" for name in missing).replace("--side", "--net-side")
            raise UsageError(
                f"{path}: no file that is known by its name or checksum; say {flags}; U²-Net's are "
                "--net-side 320 --mean .485 .456 .406 --std .229 .224 .225 --scale max "
                "--activation none --stretch yes"
            )
        return replace(self, **{name: family[name] for name in missing})

    def tensor(self, batch: np.ndarray) -> np.ndarray:
        """(B, side, side, 3) uint8 prepared images to the (B, 3, side, side) float32 input."""
        x = batch.astype(np.float32)
        largest = x.max((1, 2, 3), keepdims=True) if self.scale == "max" else np.float32(255)
        x /= np.maximum(largest, 1)
        x = (x - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))

    def finish(self, output: np.ndarray) -> np.ndarray:
        saliency = sigmoid(output) if self.activation == "sigmoid" else output
        if self.stretch == "yes":
            return super().finish(saliency)
        return np.clip(saliency, 0, 1)


def _family(path: Path) -> dict | None:
    if path.stem in KNOWN:
        return KNOWN[path.stem][1]
    digests = checksums(path)
    return next((family for digest, family in KNOWN.values() if digest in digests), None)
