"""Train the label-free network `selftaught` from folders of images alone; no mask that a human drew is read.

    python -m preprocess.selftaught /data/imagenet/train --out runs/selftaught
    python -m preprocess.selftaught FOLDER FOLDER --out OUT --steps 20000 --workers 16

Maps of four single estimators, cuts from them, a small network, its own labels over a few rounds: docs/selftaught.md.
The same command continues an interrupted run; its weights are then the same to the bit on the same kind of machine.
OUT holds selftaught.pt (the weights), card.json (images, seconds, losses), log.jsonl, and what the run can be continued
from: cues/, labels/, checkpoint.pt.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported, here and in the workers

import hashlib  # noqa: E402
import json  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated  # noqa: E402

import numpy as np  # noqa: E402
import tyro  # noqa: E402

from data.cli import UsageError, run  # noqa: E402
from data.files import sha256, write_text  # noqa: E402
from preprocess.selftaught import augment, checkpoint, cues, cut, loop, parts, refine  # noqa: E402

WEIGHTS, CARD = "selftaught.pt", "card.json"


@dataclass(frozen=True)
class Arguments:
    """Train `selftaught` from images alone."""

    images: Annotated[list[str], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES [IMAGES ...]")]
    """Folders of images (JPEG, PNG, WebP, BMP), any depth."""
    out: str
    """Folder of the run, new, or one to continue; about 0.2 MB an image at 128 px."""
    cues: str | None = None
    """Folder for the four maps of every image, which runs may share (default: OUT/cues)."""
    limit: int | None = None
    """Train on at most so many images of each folder, spread evenly."""
    steps: int = 9000
    """Steps in all; 16 images each take 0.2 to 0.4 s on one core."""
    rounds: int = 3
    """Rounds of labels: the first are cuts of the maps, the others the network's own."""
    batch: int = 16
    """Images a step."""
    side: int = 128
    """Side of the stored pictures, labels and maps, px."""
    sides: tuple[int, ...] = (96, 128, 128)
    """Sides at which the network trains, px: multiples of 32, one drawn a step; masks are made at the largest."""
    lr: float = 2e-3
    """Largest learning rate (AdamW)."""
    seed: int = 0
    """Seed of weights, order, crops and colours."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that make maps and cuts (default: the CPUs this process may use). The training takes one core."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""

    def schedule(self) -> loop.Schedule:
        """UsageError where values do not fit together."""
        for name in ("steps", "rounds", "batch", "workers", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.batch < 2 or self.rounds > self.steps or (self.limit is not None and self.limit < 1):
            raise UsageError("--batch must be at least 2, --steps at least --rounds, --limit at least 1")
        if not 32 <= self.side <= 256:
            raise UsageError(f"--side {self.side}: must be in 32..256")
        if not self.sides or any(side % 32 or not 32 <= side <= self.side for side in self.sides):
            raise UsageError(f"--sides {' '.join(map(str, self.sides))}: must be multiples of 32 up to --side "
                             f"{self.side}")
        return loop.Schedule(self.steps, self.rounds, self.batch, self.side, self.sides, self.lr, self.seed)


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m preprocess.selftaught", description=__doc__)
    schedule, out = args.schedule(), Path(args.out)
    for folder in args.images:
        if not os.path.isdir(folder):
            raise UsageError(f"{folder}: no such folder of images")
    names = {f"{i}": str(Path(folder).resolve()) for i, folder in enumerate(args.images)}
    checkpoint.claim(out, loop.identity(schedule, names | {"limit": args.limit}))
    with checkpoint.alone(out):
        make(args, schedule, out, names)


def make(args: Arguments, schedule: loop.Schedule, out: Path, names: dict[str, str]) -> None:
    """Cues, labels, training, weights and card, each as far as it is not there yet."""
    sources = cues.prepare(args.images, Path(args.cues or out / "cues"), schedule.side, args.workers)
    rows = parts.rows_of(sources, args.limit)
    if len(rows) < 2:
        raise UsageError(f"{len(rows)} usable images; at least 2 are needed")
    listed = listing(sources, rows)
    print(f"{len(rows)} images, {schedule.steps} steps in {schedule.rounds} rounds -> {out}", flush=True)
    samples = parts.first(sources, out / "labels", schedule.side, args.workers, rows, listed)
    network = loop.train(samples, schedule, out, args.workers, args.checkpoint_every)
    checkpoint.save(out, network.state_dict(), WEIGHTS)
    described = card(out, schedule, names, listed, samples)
    write_text(out / CARD, json.dumps(described, indent=2) + "\n")
    print(f"written: {out / WEIGHTS} ({(out / WEIGHTS).stat().st_size / 1e6:.1f} MB), {out / CARD}; masks with it: "
          f"make masks IMAGES=... CACHE=... ESTIMATOR=selftaught WEIGHTS={out / WEIGHTS}")


def listing(sources: list, rows: list[tuple[int, int]]) -> str:
    """BLAKE2b-64 of the images' digests in order: which pictures a run used, whatever their folders' names."""
    digests = [caches[0].column("digest") for _, caches in sources]
    return hashlib.blake2b(b"".join(digests[s][r].tobytes() for s, r in rows), digest_size=8).hexdigest()


def card(out: Path, schedule: loop.Schedule, folders: dict, listed: str, samples: parts.Samples) -> dict:
    """What made the weights: JSON-able."""
    entries = checkpoint.entries(out)
    first = samples.trust[np.arange(len(samples))]
    return {"weights": WEIGHTS, "sha256": sha256(out / WEIGHTS), "true_masks": "none, in training or selection",
            "schedule": loop.identity(schedule, folders), "images": len(samples), "list": listed,
            "held_out": int((np.arange(len(samples)) % loop.HELD_OUT == loop.HELD_OUT - 1).sum()),
            "cues": {name: dict(parameters) for name, parameters in cues.RECIPES.items()},
            "cut": {"iterations": cut.ITERATIONS, "rough": cut.ROUGH, "slope": cut.SLOPE, "certain": cut.CERTAIN},
            "augmentation": {"drop": augment.DROP, "blind": augment.BLIND, "smallest": augment.SMALLEST,
                             "grey": augment.GREY},
            "history": refine.MOMENTUM, "average": loop.AVERAGE, "consistency": loop.CONSISTENCY,
            "mean_trust_of_the_first_labels": round(float(first.mean()), 4),
            "images_without_trust": int((first == 0).sum()),
            "seconds": entries[-1]["seconds"] if entries else 0.0, "log": entries}


if __name__ == "__main__":
    run(main)
