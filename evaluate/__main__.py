"""Stage 3: weights to numbers.

    python -m evaluate knn         --run RUN --data DATA    (or --weights FILE: third-party weights)
    python -m evaluate linear      --run RUN --data DATA
    python -m evaluate few         --run RUN --data DATA
    python -m evaluate in9         --run RUN --data DATA
    python -m evaluate backgrounds --run RUN --data DATA
    python -m evaluate detection   --run RUN --data DIR --dataset voc|coco --model c4|fpn|mask
    python -m evaluate export      --to torchvision|timm|detectron2 --run RUN --out FILE
    python -m evaluate diagnose    --runs RUN RUN --data DATA --masks CACHE
    python -m evaluate saliency    --images DIR --truth DIR --estimator NAME[,NAME...]
    python -m evaluate report      RUN [RUN ...] --out report.html

Each prints its numbers with the protocol's parameters and writes them as JSON; `python -m evaluate
NAME --help`.
"""

import importlib
import sys

from data.cli import UsageError, run
from evaluate.common import command

EVALUATIONS = {
    "knn": "evaluate.probes.knn",
    "linear": "evaluate.probes.linear",
    "few": "evaluate.probes.few",
    "in9": "evaluate.backgrounds.in9",
    "backgrounds": "evaluate.backgrounds.variants",
    "detection": "evaluate.detection.command",
    "export": "evaluate.export",
    "diagnose": "evaluate.diagnose.command",
    "saliency": "evaluate.masks.saliency",
    "report": "evaluate.report",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        return
    if sys.argv[1] not in EVALUATIONS:
        raise UsageError(f"no evaluation {sys.argv[1]!r}; there are: {', '.join(EVALUATIONS)}")
    name, *argv = sys.argv[1:]
    command(name, importlib.import_module(EVALUATIONS[name]), argv)


if __name__ == "__main__":
    run(main)
