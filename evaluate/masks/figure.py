"""Figures of saliency: images, true masks and maps side by side; curves over the thresholds."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from evaluate.masks.saliency import predict, read_grey, read_image
from evaluate.style import axes_grid, styled


def draw(result: dict, file: Path, rows: int) -> None:
    """Draw `rows` images of a result of evaluate.masks.saliency.run, spread evenly, to a PNG
    file."""
    paths = result["paths"]
    rows = min(rows, len(paths))
    names = list(result["estimators"])
    figure, axes = plt.subplots(
        rows, 2 + len(names), figsize=(1.6 * (2 + len(names)), 1.3 * rows), squeeze=False
    )
    for row in range(rows):
        path = os.fsencode(paths[(2 * row + 1) * len(paths) // (2 * rows)])
        image = read_image(result["images"], path)
        pictures: dict[str, np.ndarray] = {
            "image": image,
            "truth": read_grey(result["truth"], path, image.shape[:2], "true mask"),
        }
        for name in names:
            pictures[name] = (
                predict(image, name, result["refine"])[0]
                if result["maps"] is None
                else read_grey(result["maps"], path, image.shape[:2], "map")
            )
        for axis, (title, picture) in zip(axes[row], pictures.items(), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.axis("off")
            if row == 0:
                axis.set_title(os.path.basename(title.rstrip("/")), fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=100)
    plt.close(figure)


@styled
def draw_curves(result: dict, file: Path) -> None:
    """Draw precision over recall, F and E over the threshold, an estimator a line, to a PNG
    file."""
    figure, (axes,) = axes_grid(
        1,
        3,
        3.6,
        3.2,
        f"{os.path.basename(result['truth'].rstrip('/'))}, {result['count']:,} images",
    )
    panels = (("recall", "precision"), ("threshold", "f"), ("threshold", "e"))
    labels = {"f": "F, β² = 0.3", "e": "E", "threshold": "threshold of the map, 0 to 255"}
    for axis, (x, y) in zip(axes, panels, strict=True):
        for index, (name, entry) in enumerate(result["estimators"].items()):
            axis.plot(
                entry["curves"][x],
                entry["curves"][y],
                label=os.path.basename(name.rstrip("/")),
                linewidth=1.2,
                linestyle=("-", "--", ":")[index // 7 % 3],
            )  # seven colours
        axis.set_xlabel(labels.get(x, x))
        axis.set_ylabel(labels.get(y, y))
        axis.set_ylim(0, 1)
    axes[0].legend()
    figure.savefig(file, dpi=110)
