"""The adversarial Backgrounds Challenge: a foreground counts only if no background at all changes
the decision."""

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.cli import UsageError
from data.io import entries
from data.sources.images import ImageError, decode, read_bytes
from data.sources.labelled import whole_image
from evaluate.features import Encoder
from train.features import Labelled, batches, forward

BATCH = 256
ENDINGS = (".JPEG", ".jpg", ".jpeg", ".png")


def challenge(
    encoder: Encoder,
    decide: Callable[[np.ndarray], np.ndarray],
    data: str,
    classes: list[str],
) -> float:
    """Percentage of foregrounds that are decided rightly on every background of only_bg_t.

    DATA holds fg_mask/val/CLASS/NAME.npy (H, W), nonzero = foreground,
    original/val/CLASS/NAME.JPEG, and only_bg_t/val/CLASS/image. Every foreground is pasted on every
    background until one decision is wrong; backgrounds that were adversarial before are tried
    first, which changes the time and not the result.

    Args:
        decide: (N, D) features -> (N,) places in `classes`, or -1.

    Raises:
        UsageError: a folder, mask or image that is missing or does not fit.
    """
    root = Path(data, "fg_mask", "val")
    folders = [folder for folder in entries(root) if folder.is_dir()]
    files = [file for folder in folders for file in entries(folder)]
    masks = [file for file in files if file.suffix == ".npy"]
    if not masks or not {file.parent.name for file in masks} <= set(classes):
        raise UsageError(
            f"{root}: --challenge needs masks CLASS/NAME.npy of the classes {classes[0]} to "
            f"{classes[-1]}, and of no others"
        )
    images = Labelled(os.path.join(data, "only_bg_t", "val"), encoder.size, crop=whole_image)
    loader = batches(images, encoder.workers, encoder.device, BATCH)
    backgrounds = torch.cat(list(loader)).to(encoder.device)
    order, safe = list(range(len(backgrounds))), 0
    with torch.inference_mode(), tqdm(masks, "challenge", unit="foreground", leave=False) as bar:
        for done, file in enumerate(bar, 1):
            label = classes.index(file.parent.name)
            parts = _foreground(data, file, encoder.size)
            image, mask = (torch.from_numpy(part).to(encoder.device) for part in parts)
            for start in range(0, len(order), BATCH):
                pasted = torch.where(mask, image, backgrounds[order[start : start + BATCH]])
                features = forward(encoder.model, pasted, encoder.device)
                wrong = np.flatnonzero(decide(features.cpu().numpy()) != label)
                if len(wrong):
                    order.insert(0, order.pop(start + int(wrong[0])))
                    break
            else:
                safe += 1
            bar.set_postfix(accuracy=f"{safe / done:.1%}", refresh=False)
    return 100 * safe / len(masks)


def _foreground(data: str, file: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(s, s, 3) uint8 image and (s, s, 1) bool mask of a mask's file."""
    stem = Path(data, "original", "val", file.parent.name, file.stem)
    names = [f"{stem}{ending}" for ending in ENDINGS]
    name = next(filter(os.path.exists, names), names[0])
    try:
        image = decode(read_bytes("", os.fsencode(name)))
        mask = np.load(file, allow_pickle=False)
    except ImageError as error:
        raise UsageError(f"{name}: {error}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: not a mask that can be read") from error
    if mask.shape != image.shape[:2]:
        raise UsageError(f"{file}: a mask of {mask.shape} for an image of {image.shape[:2]}")
    mask = (mask != 0).astype(np.uint8)
    if mask.shape != (size, size):
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(whole_image(image, size)), mask[:, :, None].astype(bool)
