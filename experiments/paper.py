"""The paper's figures beside ours: ImageNet, ResNet-50, 200 epochs, linear top-1 in %. Its full
text was not at hand.

"†" is second-hand: from a public review whose other figures agree with official sources. "‡" is
from memory, unverified. Baselines without a mark are in the authors' repository of MoCo.
"""

MOCO_V1 = "MoCo v1, linear top-1 on ImageNet"

# table -> (what was measured, label -> figure)
PAPER: dict[str, tuple[str, dict[str, str]]] = {
    "e1": (
        MOCO_V1 + "; human-taught: BASNet",
        {
            "none": "60.6",
            "rbd": "62.8†",
            "u2netp, human-taught": "65.0†",
            "gs": "62.7‡",
            "mc": "62.1‡",
        },
    ),
    "e2": (
        "Ryali et al., MoCo v2, Mixed-Rand of ImageNet-9",
        {"none": "70.7†", "rbd": "76.3†"},
    ),
    "e3": (
        MOCO_V1,
        {
            "none": "60.6",
            "grey": "62.8†",
            "grey, no blur": "62.4†",
            "image": "62.1†",
            "texture": "60.6†",
        },
    ),
    "e4": (
        MOCO_V1,
        {"0": "60.6", "0.3": "62.8†", "0.5": "62.2†", "0.7": "61.6†", "1.0": "47.6†"},
    ),
    "e5": ("", {}),
    "e6": (
        "linear top-1 on ImageNet; MoCo v2's DiLo with BASNet's masks",
        {
            "moco_v1": "60.6",
            "moco_v1+dilo": "62.8†",
            "moco_v2": "67.5",
            "moco_v2+dilo": "69.2†",
        },
    ),
}
