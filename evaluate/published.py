"""Published numbers to show beside ours: accuracies on ImageNet-9, and saliency scores on ECSSD
that check ours.

Figures not read in the authors' own repository or paper are marked second-hand.
"""

from pathlib import PurePath

XIAO = "Xiao et al., ICLR 2021: the challenge's README"
CLAD = "CLAD, BMVC 2022: the authors' repository"
CAST = "Selvaraju et al., CVPR 2021: second-hand"
RYALI = "Ryali et al., arXiv 2103.12719, table 10: second-hand"
COLUMNS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "bg_gap", "challenge")

# model, source, then COLUMNS in percent; None: not known
_ROWS = (
    ("ResNet-50, supervised", XIAO, 95.6, 86.2, 78.9, None, None, 7.3, 22.3),
    ("ResNet-152, supervised", XIAO, 96.7, 89.3, 83.5, None, None, 5.8, None),
    ("VGG16-BN, supervised", XIAO, 94.3, 83.6, 73.4, None, None, 10.2, None),
    ("ResNet-50, trained on IN-9L", XIAO, 96.4, 89.8, 75.6, None, None, 14.2, 12.0),
    ("ResNet-50, trained on Mixed-Rand", XIAO, 73.3, 71.5, 71.3, None, None, 0.2, None),
    ("CLAD's baseline, supervised", CLAD, 96.2, 88.2, 75.1, None, 86.4, 13.1, None),
    ("CLAD, supervised", CLAD, 95.8, 91.0, 88.8, None, 94.4, 2.2, None),
    ("MoCo on COCO", CAST, 72.62, 45.75, 30.44, 26.86, 30.42, None, None),
    ("CAST on COCO", CAST, 77.33, 54.42, 39.93, 37.46, 43.26, None, None),
    ("MoCo v2", RYALI, None, None, 70.7, 67.0, 74.4, None, None),
    ("MoCo v2 with BG_RM", RYALI, None, None, 76.3, 73.0, 81.9, None, None),
    ("MoCo v2 with BG_Swaps", RYALI, None, None, 84.1, 82.2, 86.1, None, None),
    ("BYOL", RYALI, None, None, 79.6, None, None, None, None),
    ("BYOL with BG_Random", RYALI, None, None, 85.5, None, None, None, None),
)


def in9_table() -> list[dict]:
    """{"model", "source", and what is known of COLUMNS, percent} a row."""
    return [
        {
            "model": model,
            "source": source,
            **{c: v for c, v in zip(COLUMNS, values, strict=True) if v is not None},
        }
        for model, source, *values in _ROWS
    ]


JOURNAL = "a comparison in a journal: second-hand"
SIMEONI = "Siméoni et al., CVPR 2023, tables 2 and 4"
# a port differs by .01 through another SLIC alone; a metric in another convention by .03 and more
TOLERANCE = 0.02
# estimator -> {metric: (score on all of ECSSD, source)}, of the estimator's own authors' maps
ECSSD = {
    "ft": {"adaptive_f": (0.379, JOURNAL), "mae": (0.289, JOURNAL)},
    "sf": {"adaptive_f": (0.543, JOURNAL), "mae": (0.228, JOURNAL)},
    "mr": {"adaptive_f": (0.693, JOURNAL), "mae": (0.187, JOURNAL)},
    "rbd": {
        "adaptive_f": (0.677, JOURNAL),
        "mae": (0.171, JOURNAL),
        "max_f_a": (0.684, SIMEONI),
        "adaptive_iou": (0.517, SIMEONI),
    },
}


def saliency_check(result: dict) -> list[dict]:
    """Published scores beside ours, where a result of evaluate.masks.saliency.evaluate is of all of
    ECSSD and not refined.

    Returns:
        {"estimator", "metric", "ours", "published", "source", "agrees": within TOLERANCE} a row;
        empty on other images.
    """
    names = {PurePath(path).stem for path in result["paths"]}
    if result["refine"] != "none" or names != {f"{i:04d}" for i in range(1, 1001)}:
        return []
    return [
        {
            "estimator": name,
            "metric": metric,
            "ours": entry[metric],
            "published": value,
            "source": source,
            "agrees": abs(entry[metric] - value) <= TOLERANCE,
        }
        for name, entry in result["estimators"].items()
        for metric, (value, source) in ECSSD.get(name, {}).items()
    ]
