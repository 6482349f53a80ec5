"""What the evaluations share on the command line, and how a result is shown, repeated over seeds,
and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from data.cli import UsageError
from data.io import write_text


@dataclass(frozen=True)
class Common:
    """Options of every evaluation of a network."""

    run: str | None = None
    """Run folder made by `python -m train`; or give --weights."""
    data: str = ""
    """Folder of the data set; which folders it needs below it is said above."""
    weights: str | None = None
    """Anybody's ResNet weights instead of a run: MoCo's .pth.tar, torchvision's, timm's, DINO's, a
    plain state dict, or .safetensors; recognised by its keys."""
    stem: Literal["imagenet", "small", "small_stride2"] | None = None
    """First layer of --weights: 7x7 is told by its shape; a 3x3 one is taken as small (stride 1)
    unless you say so."""
    size: int | None = None
    """Side of the images given to the network, in pixels (default: the run's; 224 for --weights, or
    32 if its first layer is 3x3)."""
    untrained: bool = False
    """Evaluate the network with random first weights instead: what a number is worth."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    workers: int = 0
    """Processes that decode; 0 does it in this one, and then nothing overlaps."""
    seeds: int = 1
    """Repeat with seeds 0, 1, ... and report mean and deviation. Where the evaluation itself draws
    nothing: over runs, named by their seed (--run "runs/rbd-s{seed}"), or with --untrained over
        first weights."""
    json: str | None = None
    """File to write the result to (default: RUN/NAME.json, or runs/evaluate/FILE/NAME.json for
    --weights)."""

    def check(self) -> None:
        """UsageError where options are missing or do not fit together."""
        if (self.run is None) == (self.weights is None):
            raise UsageError("give either --run RUN or --weights FILE")
        if self.seeds < 1:
            raise UsageError(f"--seeds {self.seeds}: must be at least 1")
        if not self.data:
            raise UsageError("give --data DIR, the folder of the data set")
        if self.workers < 0 or (self.size is not None and self.size < 1):
            raise UsageError(f"--workers {self.workers}, --size {self.size}: must not be negative")

    @property
    def differs(self) -> bool:
        """Whether seeds give different networks."""
        return self.untrained or "{seed}" in (self.run or self.weights or "")

    def at(self, seed: int):
        """The same with the run or the weights of a seed."""
        return replace(
            self,
            run=self.run and self.run.replace("{seed}", str(seed)),
            weights=self.weights and self.weights.replace("{seed}", str(seed)),
        )

    def result(self, name: str, protocol: dict, **values) -> dict:
        """What every evaluation's JSON begins with."""
        return {
            "evaluation": name,
            "run": self.run or self.weights,
            "data": self.data,
            "untrained": self.untrained,
            "protocol": protocol,
            **values,
        }

    def output(self, name: str) -> Path:
        """Where the result of the evaluation `name` is written."""
        name += "-untrained" if self.untrained else ""
        folder = self.run or Path("runs", "evaluate", Path(self.weights or "").name.split(".")[0])
        folder = str(folder).replace("{seed}", f"0-{self.seeds - 1}")
        return Path(self.json or Path(folder, f"{name}.json"))


def parse(arguments: type, argv: list[str], name: str, description: str):
    return tyro.cli(
        arguments, args=argv, prog=f"python -m evaluate {name}", description=description
    )


def publish(result: dict, args: Common) -> None:
    """Write the result as JSON and say where."""
    path = args.output(result["evaluation"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def describe(protocol: dict) -> str:
    """The protocol's parameters in one line."""
    return ", ".join(f"{k} {v}" for k, v in protocol.items())


def over_seeds(evaluate: Callable[[int], dict], seeds: int) -> dict:
    """Repeat an evaluation: seeds 0, 1, ... and what they have in common.

    Args:
        evaluate: seed -> {name: number, list of numbers, or such a dictionary again}.

    Returns:
        "accuracy": the means; with several seeds also "deviation": the sample deviations (divisor n
        - 1), and "per_seed": each seed's values.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: must be at least 1")
    values = [evaluate(seed) for seed in range(seeds)]
    if seeds == 1:
        return {"accuracy": values[0]}
    return {
        "accuracy": _merge(values, np.mean),
        "deviation": _merge(values, lambda v, axis: np.std(v, axis, ddof=1)),
        "per_seed": values,
    }


def repeat(evaluate: Callable, args: Common) -> dict:
    """Repeat an evaluation that draws nothing itself over the networks of several seeds.

    Args:
        evaluate: (args with the run of a seed, seed) -> a whole result: "accuracy", "protocol",
            perhaps "per_class".

    Returns:
        the first seed's result with the means in place of its numbers; see over_seeds. Where all
        seeds have the same network, one is evaluated, and the deviation is 0, which the protocol
        says.
    """
    if args.seeds == 1:
        return evaluate(args.at(0), 0)
    args.check()
    results = (
        [evaluate(args.at(seed), seed) for seed in range(args.seeds)]
        if args.differs
        else [evaluate(args, 0)] * args.seeds
    )
    over = (
        "first weights"
        if args.untrained
        else "runs"
        if args.differs
        else "nothing that a seed changes"
    )
    found = over_seeds(lambda seed: results[seed]["accuracy"], args.seeds)
    if "per_class" in results[0]:
        found["per_class"] = _merge([result["per_class"] for result in results], np.mean)
    return {
        **results[0],
        "run": args.run or args.weights,
        "protocol": {**results[0]["protocol"], "seeds": args.seeds, "seeds_over": over},
        **found,
    }


def _merge(values: list, reduce: Callable):
    if isinstance(values[0], dict):
        return {
            key: _merge([v[key] for v in values], reduce)
            for key in values[0]
            if all(key in v for v in values)
        }
    if isinstance(values[0], list):
        return np.asarray(reduce(np.array(values, float), axis=0)).tolist()
    return float(reduce(np.array(values, float), axis=0))


def percent(result: dict, *keys: str) -> str:
    """One accuracy of a result of over_seeds for people: "71.30 %", or "71.30 ± 0.12 %"."""
    mean, deviation = result["accuracy"], result.get("deviation")
    for key in keys:
        mean, deviation = mean[key], deviation and deviation[key]
    return f"{mean:6.2f} %" if deviation is None else f"{mean:6.2f} ± {deviation:.2f} %"
