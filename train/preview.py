"""The first batch as a picture: what the network is shown, so that a wrong mask is seen at once."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from data.io import write_bytes
from train.photometric import MEAN, STD

SAMPLES = 24
FRAME = (230, 60, 40)  # RGB around a pasted view
EDGE, MARGIN = 3, 4  # px around a picture, and around a row of samples


def preview(pictures: list[Tensor], pasted: Tensor, path: Path, samples: int = SAMPLES) -> None:
    """Write the pictures of the first samples as a PNG: a column a sample, a row a view, pasted
    ones in a red frame; two such rows of samples, so that the whole is not a ribbon.

    Args:
        pictures: V of (B, 3, s, s) float32 each, as the network sees them.
        pasted: (V, B), > 0 where pasted.
    """
    shown = torch.stack([p[:samples].float().cpu().permute(0, 2, 3, 1) for p in pictures]).numpy()
    shown = shown * np.array(STD, np.float32) + np.array(MEAN, np.float32)
    views, count, size = shown.shape[:3]
    half, side = -(-count // 2), size + 2 * EDGE
    sheet = np.full((views, 2 * half, side, side, 3), 255, np.uint8)
    sheet[:, :count][pasted[:, :count].numpy() > 0] = FRAME
    inside = slice(EDGE, -EDGE)
    sheet[:, :count, inside, inside] = np.clip(np.rint(shown * 255), 0, 255)
    rows = sheet.reshape(views, 2, half, side, side, 3).transpose(1, 0, 3, 2, 4, 5)
    rows = rows.reshape(2, views * side, half * side, 3)
    around = (MARGIN, MARGIN)
    rows = np.pad(rows, ((0, 0), around, around, (0, 0)), constant_values=255)
    whole = np.concatenate([*rows])
    write_bytes(path, cv2.imencode(".png", whole[..., ::-1])[1].tobytes())
