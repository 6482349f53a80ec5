"""The first batch as a picture: what the network is shown, so that a wrong mask is seen at once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from data.io import write_bytes
from train.photometric import MEAN, STD

SAMPLES = 24
FRAME = (230, 60, 40)  # RGB around a pasted view


def preview(
    views: list[torch.Tensor], pasted: torch.Tensor, path: Path, samples: int = SAMPLES
) -> None:
    """Write the views of the first samples as a PNG: a column a sample, a row a view, pasted ones
    in a red frame.

    Args:
        views: (B, 3, s, s) float32 each, as the network sees them.  pasted: (views, B), > 0 where
            pasted.
    """
    mean, std = (np.array(values, np.float32) for values in (MEAN, STD))
    columns = []
    for i in range(min(samples, len(views[0]))):
        column = []
        for view, flags in zip(views, pasted, strict=True):
            picture = view[i].float().cpu().permute(1, 2, 0).numpy() * std + mean
            picture = np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)
            column.append(
                cv2.copyMakeBorder(
                    picture,
                    3,
                    3,
                    3,
                    3,
                    cv2.BORDER_CONSTANT,
                    value=FRAME if flags[i] else (255, 255, 255),
                )
            )
        columns.append(np.concatenate(column))
    half = -(-len(columns) // 2)  # two rows of samples, so that the picture is not a ribbon
    blank = [np.full_like(columns[0], 255)] * (2 * half - len(columns))
    rows = [np.concatenate(part, 1) for part in (columns[:half], columns[half:] + blank)]
    whole = np.concatenate(
        [np.pad(row, ((4, 4), (4, 4), (0, 0)), constant_values=255) for row in rows]
    )
    write_bytes(path, cv2.imencode(".png", whole[..., ::-1])[1].tobytes())
