"""A figure of examples: images, true masks and maps side by side."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from evaluate.saliency import predict, read_grey, read_image


def draw(result: dict, file: Path, rows: int) -> None:
    """Draw `rows` images of a result of evaluate.saliency.run, spread evenly, to a PNG file."""
    paths = result["paths"]
    rows = min(rows, len(paths))
    names = list(result["estimators"])
    figure, axes = plt.subplots(rows, 2 + len(names), figsize=(1.6 * (2 + len(names)), 1.3 * rows), squeeze=False)
    for row in range(rows):
        path = os.fsencode(paths[(2 * row + 1) * len(paths) // (2 * rows)])
        image = read_image(result["images"], path)
        pictures: dict[str, np.ndarray] = {"image": image,
                                           "truth": read_grey(result["truth"], path, image.shape[:2], "true mask")}
        for name in names:
            pictures[name] = (predict(image, name, result["refine"])[0] if result["maps"] is None
                              else read_grey(result["maps"], path, image.shape[:2], "map"))
        for axis, (title, picture) in zip(axes[row], pictures.items(), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
            if row == 0:
                axis.set_title(os.path.basename(title.rstrip("/")), fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)
