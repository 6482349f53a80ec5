"""The adversarial Backgrounds Challenge: a foreground counts only if no background at all changes
the decision."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.cli import UsageError
from data.sources.images import ImageError, decode, read_bytes
from data.sources.labelled import whole_image
from evaluate.features import Encoder, Labelled, batches, forward

BATCH = 256
ENDINGS = (".JPEG", ".jpg", ".jpeg", ".png")


def challenge(
    encoder: Encoder,
    decide: Callable[[np.ndarray], np.ndarray],
    data: str,
    workers: int = 0,
    own: list[str] | None = None,
) -> float:
    """Percentage of foregrounds that are decided rightly on every background of only_bg_t.

    DATA holds fg_mask/val/CLASS/NAME.npy (H, W), nonzero = foreground,
    original/val/CLASS/NAME.JPEG, and only_bg_t/val/CLASS/image. Every foreground is pasted on every
    background until one decision is wrong; backgrounds that were adversarial before are tried
    first, which changes the time and not the result.

    Args:
        decide: (N, D) features -> (N,) classes 0..8, or -1; places in `own` where it is given.
        own: the classes of a set that is not the official one (`python -m data challenge`).

    Raises:
        UsageError: a folder, mask or image that is missing or does not fit.
    """
    root = Path(data, "fg_mask", "val")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if own is not None:
        if not set(classes) <= set(own):
            raise UsageError(
                f"{root}: has classes that challenge.json does not name; make the set again"
            )
        classes = own
    elif [name[:3] for name in classes] != [f"{i:02d}_" for i in range(9)]:
        raise UsageError(
            f"{root}: --challenge needs the masks of the nine classes, 00_dog to 08_fish, as "
            ".npy files"
        )
    foregrounds = [
        (label, file)
        for label, name in enumerate(classes)
        for file in sorted((root / name).glob("*.npy"))
    ]
    if not foregrounds:
        raise UsageError(f"{root}: holds no masks (CLASS/NAME.npy)")
    images = Labelled(os.path.join(data, "only_bg_t", "val"), encoder.size, crop=whole_image)
    backgrounds = torch.cat(list(batches(images, workers, encoder.device, BATCH))).to(
        encoder.device
    )
    order = np.arange(len(backgrounds))
    safe = 0
    with (
        torch.inference_mode(),
        tqdm(foregrounds, desc="challenge", unit="foreground", leave=False) as bar,
    ):
        for done, (label, file) in enumerate(bar, 1):
            image, mask = (
                torch.from_numpy(a).to(encoder.device)
                for a in _foreground(data, file, encoder.size)
            )
            wrong = -1
            for start in range(0, len(order), BATCH):
                part = order[start : start + BATCH]
                pasted = torch.where(
                    mask, image, backgrounds[torch.from_numpy(part).to(encoder.device)]
                )
                decided = decide(forward(encoder, pasted).cpu().numpy())
                if (decided != label).any():
                    wrong = start + int((decided != label).argmax())
                    break
            if wrong < 0:
                safe += 1
            else:
                order = np.concatenate([order[wrong : wrong + 1], np.delete(order, wrong)])
            bar.set_postfix(accuracy=f"{safe / done:.1%}", refresh=False)
    return 100 * safe / len(foregrounds)


def _foreground(data: str, file: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(s, s, 3) uint8 image and (s, s, 1) bool mask of a mask's file."""
    folder = os.path.join(data, "original", "val")
    names = [os.fsencode(os.path.join(file.parent.name, file.stem + ending)) for ending in ENDINGS]
    name = next(
        (n for n in names if os.path.exists(os.path.join(os.fsencode(folder), n))), names[0]
    )
    try:
        image = decode(read_bytes(folder, name))
        mask = np.load(file, allow_pickle=False)
    except ImageError as error:
        raise UsageError(f"{os.path.join(folder, os.fsdecode(name))}: {error}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: not a mask that can be read") from error
    if mask.shape != image.shape[:2]:
        raise UsageError(f"{file}: a mask of {mask.shape} for an image of {image.shape[:2]}")
    mask = (mask != 0).astype(np.uint8)
    if mask.shape != (size, size):
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(whole_image(image, size)), mask[:, :, None].astype(bool)
