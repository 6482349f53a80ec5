"""The paper's figures beside ours: ImageNet, ResNet-50, 200 epochs, linear top-1 in %. Its full
text was not at hand.

SECOND_HAND: from a public review whose other figures agree with official sources. MEMORY: from
memory, unverified. Baselines of E6 are in the authors' repository of MoCo.
"""

from __future__ import annotations

SECOND_HAND, MEMORY = "second-hand", "from memory"

# table -> (what was measured, label -> (figure, how sure; "" where read at an official source))
PAPER: dict[str, tuple[str, dict[str, tuple[float, str]]]] = {
    "e1": (
        "MoCo v1, linear top-1 on ImageNet",
        {
            "none": (60.6, ""),
            "rbd": (62.8, SECOND_HAND),
            "gs": (62.7, MEMORY),
            "mc": (62.1, MEMORY),
        },
    ),
    "e2": (
        "Ryali et al., MoCo v2, Mixed-Rand of ImageNet-9",
        {"none": (70.7, SECOND_HAND), "rbd": (76.3, SECOND_HAND)},
    ),
    "e3": (
        "MoCo v1, linear top-1 on ImageNet",
        {
            "none": (60.6, ""),
            "grey": (62.8, SECOND_HAND),
            "grey, no blur": (62.4, SECOND_HAND),
            "image": (62.1, SECOND_HAND),
            "texture": (60.6, SECOND_HAND),
        },
    ),
    "e4": (
        "MoCo v1, linear top-1 on ImageNet",
        {
            "0": (60.6, ""),
            "0.3": (62.8, SECOND_HAND),
            "0.5": (62.2, SECOND_HAND),
            "0.7": (61.6, SECOND_HAND),
            "1.0": (47.6, SECOND_HAND),
        },
    ),
    "e5": ("no figure", {}),
    "e6": (
        "linear top-1 on ImageNet; MoCo v2's DiLo with BASNet's masks",
        {
            "moco_v1": (60.6, ""),
            "moco_v1+dilo": (62.8, SECOND_HAND),
            "moco_v2": (67.5, ""),
            "moco_v2+dilo": (69.2, SECOND_HAND),
        },
    ),
}
MARK = {"": "", SECOND_HAND: "†", MEMORY: "‡"}
LEGEND = {"†": "† second-hand", "‡": "‡ from memory, unverified"}


def figure(table: str, label: str) -> str:
    """The figure as a table's cell, "–" where none is known."""
    value, sure = PAPER[table][1].get(label, (None, ""))
    return "–" if value is None else f"{value:.1f}{MARK[sure]}"
