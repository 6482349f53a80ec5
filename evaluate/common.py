"""What the evaluations share on the command line, and how a result is shown and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from data.files import write_text


@dataclass(frozen=True)
class Common:
    """Options of every evaluation of a run."""

    run: str
    """Run folder made by `python -m train`."""
    data: str
    """Folder of the data set; which folders it needs below it is said above."""
    untrained: bool = False
    """Evaluate the run's network with its first, random weights instead: what a number is worth."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    workers: int = 0
    """Processes that decode; 0 does it in this one."""
    json: str | None = None
    """File to write the result to (default: RUN/NAME.json, or RUN/NAME-untrained.json)."""


def parse(arguments: type, argv: list[str], name: str, description: str):
    return tyro.cli(arguments, args=argv, prog=f"python -m evaluate {name}", description=description)


def publish(result: dict, args: Common) -> None:
    """Write the result as JSON and say where."""
    name = result["evaluation"] + ("-untrained" if args.untrained else "")
    path = Path(args.json or Path(args.run, f"{name}.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def describe(protocol: dict) -> str:
    """The protocol's parameters in one line."""
    return ", ".join(f"{k} {v}" for k, v in protocol.items())
