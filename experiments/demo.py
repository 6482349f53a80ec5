"""The whole job, small: images -> masks -> pretraining -> numbers, on the embedded data set (`make
demo`).

Five networks on the same images, seed and budget: untrained, SimCLR without DiLo, and with DiLo on
RBD's masks, on the true masks, and on shuffled masks (another image's: the control that separates
localization from occlusion). Every stage is one of the ordinary commands; run again, whatever is
finished is kept.

    python -m experiments.demo --seeds 5     # the table of docs/results.md, and docs/demo.png
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tqdm import tqdm

from benchmarks.publish import markdown
from data.cache.reader import Cache
from data.cli import require, run
from data.io import write_text
from data.stopping import ending
from evaluate.masks.agreement import mask_agreement
from experiments.__main__ import write_page
from experiments.figure import LABELS, demo_figure
from experiments.jobs import STOPPED, call, side_by_side
from experiments.table import cell
from train.presets import configure

# run -> its options of `python -m train`
RUNS = {
    "baseline": ["--masks", "none"],
    "dilo-rbd": ["--masks", "{out}/masks-rbd"],
    "dilo-truth": ["--masks", "{out}/masks-truth"],
    "dilo-shuffled": ["--masks", "{out}/masks-truth", "--control", "shuffled"],
}
# row of the table -> run, option of its evaluation, file of the result
ROWS = {"untrained": ("baseline", ("--untrained",), "backgrounds-untrained.json")}
ROWS |= {name: (name, (), "backgrounds.json") for name in RUNS}
COLUMNS = ("original", "mixed_rand", "gap")
PROBES = {"biased": "biased probe (`train/`)", "unbiased": "unbiased probe (`probe/`)"}
SENTENCE = (
    "Top-1 in % of a linear probe trained where the background goes with the class: `original` "
    "objects likewise, `mixed_rand` on backgrounds of random classes, the gap from backgrounds of "
    "the own class to those."
)


@dataclass(frozen=True)
class Arguments:
    """Run the demo: data set, masks, four pretrainings, five evaluations, a table and a figure."""

    out: str = "runs/demo"
    """Folder for everything that the demo makes; of several seeds OUT-SEED each."""
    seed: int = 0
    """Seed of the data set and of the training."""
    seeds: int = 1
    """Run it with so many seeds from --seed on: their table goes into --readme, and the first one's
    figure beside it."""
    preset: str = "simclr_demo"
    """Preset of `python -m train`."""
    epochs: int | None = None
    """Passes over the images (default: the preset's)."""
    train_images: int = 6000
    """Images to pretrain on."""
    probe_images: int = 1000
    """Unbiased images to train probes on."""
    test_images: int = 1000
    """Test objects; each is in every test split."""
    readme: str = "docs/results.md"
    """Page whose demo block gets the table of several seeds, where it has one."""


@ending(STOPPED)
def main() -> None:
    args = tyro.cli(Arguments, prog="python -m experiments.demo", description=__doc__)
    require(args, seeds=1)
    if args.seeds > 1:
        several(args)
        return
    results = demo(args)
    print(f"\n{table({args.seed: results}, 'biased', 'pretraining')}\n\n{SENTENCE}")
    files = f"Numbers: {args.out}/results.json, figure: {args.out}/demo.png"
    print(f"\n{results['seconds']['all']:.0f} s in all. {files}")


def several(args: Arguments) -> None:
    """Run every seed; the table and the first seed's figure into the page."""
    seeds = range(args.seed, args.seed + args.seeds)
    runs = {seed: replace(args, seed=seed, out=f"{args.out}-{seed}") for seed in seeds}
    results = {seed: demo(run_args) for seed, run_args in runs.items()}
    text = "\n\n".join(table(results, probe, title) for probe, title in PROBES.items())
    if write_page(args.readme, "demo", text):
        shutil.copy(Path(runs[args.seed].out, "demo.png"), Path(args.readme).with_name("demo.png"))
    print("\n" + text)


def demo(args: Arguments) -> dict:
    """Run every stage that is not finished yet; the results, also written to OUT/results.json."""
    start = time.perf_counter()
    out, images = Path(args.out), f"{args.out}/images"
    (out / "logs").mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with _stage("data set", seconds):
        sizes = {"train": args.train_images, "probe": args.probe_images, "test": args.test_images}
        options = [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
        call("data", "synthetic", images, "--seed", str(args.seed), *options)
    with _stage("masks", seconds):
        train, truth = f"{images}/train", ("--maps", f"{images}/masks/train")
        call("preprocess", train, f"{out}/masks-rbd", "--estimator", "rbd")
        call("preprocess", train, f"{out}/masks-truth", "--estimator", "files", *truth)
    with _stage("pretraining", seconds):
        _train_all(args, out, images)
    with _stage("evaluation", seconds):
        _evaluate_all(out, images)
    files = {row: out / run / file for row, (run, _, file) in ROWS.items()}
    results = {
        "rows": {row: json.loads(file.read_text())["accuracy"] for row, file in files.items()},
        "rbd_masks": mask_agreement(Cache(out / "masks-rbd"), Cache(out / "masks-truth")),
        "seed": args.seed,
        "preset": args.preset,
        "seconds": seconds,
    }
    demo_figure(out, results)
    seconds["all"] = round(time.perf_counter() - start, 1)
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def table(results: dict[int, dict], probe: str, title: str) -> str:
    """A probe's accuracies and gap as Markdown; of several seeds (the keys) their number, mean and
    deviation, and `mixed_rand` of each."""
    several = list(results) if len(results) > 1 else []
    number = [str(len(several))] if several else []
    rows = []
    for row, label in LABELS.items():
        values = {seed: result["rows"][row][probe] for seed, result in results.items()}
        means = [cell({seed: v[column] for seed, v in values.items()}) for column in COLUMNS]
        each = [f"{values[seed]['mixed_rand']:.1f}" for seed in several]
        rows.append(" | ".join([label, *number, *means, *each]))
    heads = [title, *(["seeds"] if several else []), *COLUMNS]
    heads += [f"mixed_rand, seed {several[0]}", *map(str, several[1:])] if several else []
    return markdown(" | ".join(heads), rows, len(heads) - 1)


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Say which stage runs, and keep its seconds."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def _train_all(args: Arguments, out: Path, images: str) -> None:
    epochs = args.epochs or configure(args.preset, images="", out="").optimiser.epochs
    options = ("--preset", args.preset, "--seed", str(args.seed), "--epochs", str(epochs))
    jobs = {}
    for name, masks in RUNS.items():
        paste = [part.format(out=out) for part in masks]
        command = ("train", f"{images}/train", *paste, *options, "--out", str(out / name))
        jobs[out / "logs" / f"train-{name}.txt"] = command
    shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with tqdm(total=len(RUNS), desc=f"pretraining {len(RUNS)} networks", bar_format=shape) as bar:
        side_by_side(jobs, bar, lambda _: sum(_epoch(out / name) for name in RUNS) / epochs)


def _epoch(run_folder: Path) -> float:
    """How far a run is, in epochs, by its log."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return json.loads((run_folder / "log.jsonl").read_text().splitlines()[-1])["epoch"]
    return 0.0


def _evaluate_all(out: Path, images: str) -> None:
    jobs = {}
    for row, (run_name, options, _) in ROWS.items():
        command = ("evaluate", "backgrounds", "--unless-current", "--data", images, *options)
        command += ("--workers", "0")  # a process a CPU
        log = out / "logs" / f"evaluate-{row}.txt"
        jobs[log] = (*command, "--run", str(out / run_name))
    with tqdm(total=len(jobs), unit="network", desc="evaluating") as bar:
        side_by_side(jobs, bar)


if __name__ == "__main__":
    run(main)
