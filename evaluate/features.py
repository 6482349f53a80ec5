"""Features of a frozen backbone: load a run, go through a labelled folder, give arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.cli import UsageError
from data.images import ImageError, class_names, decode, open_images
from train import checkpoint
from train.distributed import choose_device
from train.network import backbone
from train.photometric import normalise


@dataclass(frozen=True)
class Encoder:
    """A frozen backbone in eval mode and the size of image it was trained on."""

    model: nn.Module
    size: int
    device: torch.device

    @property
    def crop(self) -> str:
        return f"centre, {self.size} px"


def load_encoder(run: str, device: str = "auto", untrained: bool = False) -> Encoder:
    """The backbone of a run folder, without its head.

    Args:
        untrained: the same network with the weights it began with: what a number is worth.

    Raises:
        UsageError: no run, or an unfinished one, or weights that do not fit its network.
    """
    config, weights = checkpoint.load_run(run)
    torch.manual_seed(config["seed"])
    model = backbone(config["network"], config["stem"], config["width"])
    model.fc = nn.Identity()
    if not untrained:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UsageError(f"{run}: its weights do not fit its network: {error}") from error
    chosen = choose_device(device)
    model.requires_grad_(False)
    model = model.eval().to(chosen, memory_format=torch.channels_last)
    return Encoder(model, config["size"], chosen)


class Labelled(Dataset):
    """ROOT/CLASS/... (a folder, a tar, or ROOT.tar): centre crops, (s, s, 3) uint8, and labels: places in `classes`, or
    in its own sorted names."""

    def __init__(self, root: str, size: int, classes: list[str] | None = None):
        self.size = size
        self.images = open_images(f"{root}.tar" if not os.path.exists(root) and os.path.exists(f"{root}.tar") else root)
        self.paths = self.images.paths
        found = class_names(self.paths)
        if not found or any(b"/" not in p for p in self.paths.tolist()):
            raise UsageError(f"{root}: needs one folder a class (ROOT/CLASS/image), to know the labels")
        self.classes = classes or found
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise UsageError(f"{root}: class {unknown[0]} (of {len(unknown)}) is not one that the probe was trained on")
        index = {os.fsencode(name): i for i, name in enumerate(self.classes)}
        self.labels = np.array([index[p.split(b"/", 1)[0]] for p in self.paths.tolist()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        return centre_crop(decode(self.images.read(i)), self.size)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The test crop: short side to size * 256 / 224, then the centre (MoCo's protocol at any size).

    Images of 64 px or less are resized whole: cutting their border away would cut objects.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    side = short if short <= 64 else max(1, round(short * 224 / 256))
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top:top + side, left:left + side]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def extract(encoder: Encoder, root: str, batch: int = 256, workers: int = 0,
            classes: list[str] | None = None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features of every image of a labelled folder.

    Args:
        classes: class names that labels are places of; the folder's own where None.

    Returns:
        (N, D) float32 features (the backbone's pooled output, not normalised), (N,) int64 labels, class names.

    Raises:
        UsageError: no such folder, no images or classes, or an image that cannot be decoded.
    """
    images = Labelled(root, encoder.size, classes)
    loader = DataLoader(images, batch, num_workers=workers, collate_fn=lambda crops: torch.from_numpy(np.stack(crops)))
    features = []
    try:
        with torch.inference_mode(), tqdm(total=len(images), desc=f"features {os.path.basename(root.rstrip('/'))}",
                                          unit="img", leave=False) as bar:
            for crops in loader:
                scaled = crops.to(encoder.device).permute(0, 3, 1, 2).float().div_(255)
                features.append(encoder.model(normalise(scaled)).float().cpu().numpy())
                bar.update(len(crops))
    except ImageError as error:
        raise UsageError(f"{root}: {error}; remove or repair that image") from error
    return np.concatenate(features), images.labels, images.classes
