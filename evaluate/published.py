"""Published numbers to show beside ours, from published.json: accuracies on ImageNet-9 in percent,
and saliency scores on all of ECSSD, of the estimators' own authors' maps, that check ours.

Figures not read in the authors' own repository or paper are marked second-hand.
"""

import json
from pathlib import Path, PurePath

PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_bytes())
# {"model", "source", and what is known of the variants, "bg_gap" and "challenge"} a row
IN9: list[dict] = PUBLISHED["in9"]
# estimator -> metric -> {"published", "source"}
ECSSD: dict[str, dict[str, dict]] = PUBLISHED["ecssd"]
# a port differs by .01 through another SLIC alone; a metric in another convention by .03 and more
TOLERANCE = 0.02


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
            **known,
            "agrees": abs(entry[metric] - known["published"]) <= TOLERANCE,
        }
        for name, entry in result["estimators"].items()
        for metric, known in ECSSD.get(name, {}).items()
    ]
