"""Further numbers of finished runs: on a set like the Backgrounds Challenge's where the images are
photographs, and E2's diagnosis on the embedded data.

Numbers of another machine's run have no weights; they are left as they are.
"""

from pathlib import Path

from data.synthetic.challenge import Options, make
from evaluate.backgrounds import in9
from evaluate.diagnose import command as diagnosis
from evaluate.diagnose.arguments import Arguments
from experiments.rows import SIDE
from experiments.runner import Result, Study, make_masks, save
from train import checkpoint

MASKS = "fusion"  # the best without weights; training images, of the row that has them, are others
IMAGES = 100  # of a class at most
QUERIES = 500  # of the embedded data's `original`
KEPT = ("pointing", "share", "iou", "same_background", "background_rather")


def challenge(study: Study) -> None:
    """Add "challenge" (percent by variant, and "bg_gap") to runs that lack it: accuracy of a probe
    on the training images, on validation images whose objects were cut out by MASKS."""
    runs = {f: r for f, r in _with_weights(study).items() if "challenge" not in r["measured"]}
    if not runs:
        return
    source, cache = study.originals / "val", study.out / f"masks-{MASKS}-val"
    make_masks(source, cache, MASKS, SIDE)
    make(source, cache, study.out / "challenge", Options(limit=IMAGES, bias=0.5))
    paths = {"data": str(study.out / "challenge"), "train": str(study.images / "train")}
    for file, result in runs.items():
        arguments = in9.Arguments(run=str(file.parent), **paths, workers=study.workers)
        result["measured"]["challenge"] = in9.evaluate(arguments)["accuracy"]["probe"]
        save(file, result)


def diagnose(study: Study) -> None:
    """Add "diagnosis" (percent, by KEPT) to the runs of every seed in which one lacks it.

    All runs of a seed are judged on the same queries; the baseline, which comes first, says which
    backgrounds are alike.
    """
    trained = _with_weights(study)
    for seed in sorted({result["seed"] for result in trained.values()}):
        runs = {file: result for file, result in trained.items() if result["seed"] == seed}
        lacking = any("diagnosis" not in result["measured"] for result in runs.values())
        if not lacking or next(iter(runs)) != study.file("none", seed):
            continue
        folders = tuple(str(file.parent) for file in runs)
        options = {"limit": QUERIES, "examples": 0, "workers": study.workers}
        arguments = Arguments(folders, str(study.images), **options)
        diagnoses = diagnosis.evaluate(arguments)["runs"]
        for file, result in runs.items():
            numbers = diagnoses[str(file.parent)]["accuracy"]
            result["measured"]["diagnosis"] = {k: numbers[k] for k in KEPT if k in numbers}
            save(file, result)


def _with_weights(study: Study) -> dict[Path, Result]:
    return {
        file: result
        for label in study.rows
        for file, result in study.results(label).items()
        if file.with_name(checkpoint.BACKBONE).exists()
    }
