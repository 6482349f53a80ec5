"""The whole job, small: images -> masks -> pretraining -> numbers, on the embedded data set (`make
demo`).

Five networks on the same images, seed and budget: untrained, MoCo v2 without DiLo, and with DiLo on
RBD's masks, on the true masks, and on shuffled masks (another image's: the control that tells
localization from occlusion). Every stage is one of the ordinary commands; run again, whatever is
finished is kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from data.cache.reader import Cache
from data.cli import run
from data.io import write_text
from evaluate.backgrounds.variants import PROBES, SPLITS
from evaluate.masks.agreement import mask_agreement
from experiments.figure import demo_figure
from experiments.jobs import call, side_by_side

# run -> its options of `python -m train`
RUNS = {
    "baseline": ["--masks", "none"],
    "dilo-rbd": ["--masks", "{out}/masks-rbd"],
    "dilo-truth": ["--masks", "{out}/masks-truth"],
    "dilo-shuffled": ["--masks", "{out}/masks-truth", "--control", "shuffled"],
}
ROWS = ("untrained", *RUNS)


@dataclass(frozen=True)
class Arguments:
    """Run the demo: data set, masks, four pretrainings, five evaluations, a table and a figure."""

    out: str = "runs/demo"
    """Folder for everything that the demo makes."""
    seed: int = 0
    """Seed of the data set and of the training."""
    preset: str = "moco_v2_demo"
    """Preset of `python -m train`."""
    epochs: int | None = None
    """Passes over the images (default: the preset's)."""
    train_images: int = 6000
    """Images to pretrain on."""
    probe_images: int = 1000
    """Unbiased images to train probes on."""
    test_images: int = 1000
    """Test objects; each is in every test split."""


def demo(args: Arguments) -> dict:
    """Run every stage that is not finished yet; the results, also written to OUT/results.json."""
    start = time.perf_counter()
    out, images = Path(args.out), f"{args.out}/images"
    (out / "logs").mkdir(parents=True, exist_ok=True)
    seconds = {}
    with _Timed(seconds, "data set"):
        call(
            "data",
            "synthetic",
            images,
            "--seed",
            str(args.seed),
            "--train",
            str(args.train_images),
            "--probe",
            str(args.probe_images),
            "--test",
            str(args.test_images),
        )
    with _Timed(seconds, "masks"):
        call("preprocess", f"{images}/train", f"{out}/masks-rbd", "--estimator", "rbd")
        call(
            "preprocess",
            f"{images}/train",
            f"{out}/masks-truth",
            "--estimator",
            "files",
            "--maps",
            f"{images}/masks/train",
        )
    with _Timed(seconds, "pretraining"):
        _train_all(args, out, images)
    with _Timed(seconds, "evaluation"):
        _evaluate_all(out, images)
    results = {
        "rows": {row: json.loads(_result_file(out, row).read_text())["accuracy"] for row in ROWS},
        "rbd_masks": mask_agreement(Cache(out / "masks-rbd"), Cache(out / "masks-truth")),
        "seed": args.seed,
        "preset": args.preset,
        "seconds": seconds,
    }
    demo_figure(out, results)
    seconds["all"] = round(time.perf_counter() - start, 1)
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def table(results: dict) -> str:
    """The results as Markdown: accuracy in percent by split, one table a probe."""
    lines = []
    columns = [*SPLITS, "gap"]
    for probe, folder in PROBES.items():
        lines += [
            f"Linear probe trained on the {probe} images (`{folder}/`), top-1 in %:",
            "",
            "| pretraining | " + " | ".join(columns) + " |",
            "|---|" + "--:|" * len(columns),
        ]
        lines += [
            f"| {row} | "
            + " | ".join(f"{results['rows'][row][probe][c]:.1f}" for c in columns)
            + " |"
            for row in ROWS
        ]
        lines.append("")
    masks = results["rbd_masks"]
    lines.append(
        f"RBD's masks against the true ones: mean absolute error {masks['mae']:.3f}, IoU {masks['iou']:.2f}."
    )
    return "\n".join(lines)


class _Timed:
    """Says which stage runs, and keeps its seconds."""

    def __init__(self, seconds: dict[str, float], stage: str):
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()
        print(f"== {self.stage}", flush=True)

    def __exit__(self, *_) -> None:
        self.seconds[self.stage] = round(time.perf_counter() - self.start, 1)


def _train_all(args: Arguments, out: Path, images: str) -> None:
    options = ["--preset", args.preset, "--seed", str(args.seed)]
    if args.epochs:
        options += ["--epochs", str(args.epochs)]
    jobs = []
    for name, masks in RUNS.items():
        masks = [part.format(out=out) for part in masks]
        jobs.append(
            (
                out / "logs" / f"train-{name}.txt",
                ("train", f"{images}/train", *masks, *options, "--out", str(out / name)),
            )
        )
    with tqdm(
        total=len(RUNS),
        unit="run",
        desc="pretraining 4 networks",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
    ) as bar:

        def tick() -> None:
            done = {name: _progress(out / name) for name in RUNS}
            bar.n = sum(share for share, _ in done.values())
            bar.set_postfix({name: loss for name, (_, loss) in done.items() if loss})

        side_by_side(jobs, tick)


def _progress(run_folder: Path) -> tuple[float, str]:
    """Share of a run that is done, and its last loss."""
    try:
        last = json.loads((run_folder / "log.jsonl").read_text().splitlines()[-1])
        epochs = json.loads((run_folder / "config.json").read_text())["config"]["epochs"]
        return last["epoch"] / epochs, f"{last['loss']:.2f}"
    except (OSError, IndexError, ValueError):
        return 0.0, ""


def _result_file(out: Path, row: str) -> Path:
    return (
        out / "baseline" / "backgrounds-untrained.json"
        if row == "untrained"
        else out / row / "backgrounds.json"
    )


def _evaluate_all(out: Path, images: str) -> None:
    jobs = []
    for row in ROWS:
        run_folder = out / ("baseline" if row == "untrained" else row)
        file = _result_file(out, row)
        if file.exists() and file.stat().st_mtime >= (run_folder / "backbone.pt").stat().st_mtime:
            continue
        untrained = ("--untrained",) if row == "untrained" else ()
        jobs.append(
            (
                out / "logs" / f"evaluate-{row}.txt",
                ("evaluate", "backgrounds", "--run", str(run_folder), "--data", images, *untrained),
            )
        )
    if not jobs:
        return
    with tqdm(total=len(jobs), unit="network", desc="evaluating") as bar:

        def tick() -> None:
            bar.n = sum(job[0].exists() and "written to" in job[0].read_text() for job in jobs)
            bar.refresh()

        side_by_side(jobs, tick)


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m experiments.demo", description=__doc__)
    results = demo(args)
    print("\n" + table(results))
    print(
        f"\n{results['seconds']['all']:.0f} s in all. Numbers: {args.out}/results.json, figure: {args.out}/demo.png"
    )


if __name__ == "__main__":
    run(main)
