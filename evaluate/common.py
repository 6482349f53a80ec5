"""The contract of an evaluation, and the one helper that makes a command of it.

An evaluation is a module with

    Arguments               a frozen dataclass, the command line; of a network's evaluation derived
                            from Common
    evaluate(arguments)     -> the whole result, a dict that can be written as JSON
    lines(result)           -> what is printed, a string a line
    draw(arguments, result, pictures) -> list[Path]
                            optional: writes figures beside the JSON; `pictures` is what `evaluate`
                            left under "pictures", which the JSON leaves out

`Arguments.result_file()` is where the JSON goes; an evaluation without it writes none. `evaluate`
repeats over --seeds by `repeat`, and is what other programs call; `command` is the command line:
it parses, joins the process group, locks the JSON, evaluates, writes, and prints at last. The JSON
also holds the "arguments" that the result depends on and a digest of its "inputs", by which
--unless-current knows it again.
"""

import contextlib
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import tyro

from data.cli import UsageError, require
from data.io import lock, stat_files, write_text
from data.sources.listing import files_below
from data.stopping import ending

# options that a result does not depend on
OF_THE_MOMENT = {"device", "workers", "json_file", "unless_current", "features", "save_every"}
OWNER = "weights.txt"  # in runs/evaluate/FILE: which file of that name


@dataclass(frozen=True)
class Common:
    """Options of every evaluation of a network."""

    run: str | None = None
    """Run folder made by `python -m train`; or give --weights."""
    data: str = ""
    """Folder of the data set; which folders it needs below it is said above."""
    weights: str | None = None
    """Third-party ResNet weights instead of a run: MoCo's .pth.tar, torchvision's, timm's, DINO's,
    a plain state dict, or .safetensors; recognised by its keys."""
    stem: Literal["imagenet", "small", "small_stride2"] | None = None
    """First layer of --weights: 7x7 is told by its shape; a 3x3 one is taken as small (stride 1)
    unless you say so."""
    size: int | None = None
    """Side of the images given to the network, in pixels (default: the run's; 224 for --weights, or
    32 if its first layer is 3x3)."""
    untrained: bool = False
    """Evaluate the network with random first weights instead, as a reference value."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    workers: int | None = None
    """Processes that decode (default: this process's share of the CPUs, fewer where /dev/shm has
    less room); 0 does it in this one, and then nothing overlaps."""
    seeds: int = 1
    """Repeat with seeds 0, 1, ... and report mean and deviation. Where the evaluation itself draws
    nothing: over runs, named by their seed (--run "runs/rbd-s{seed}"), or with --untrained over
    first weights."""
    json_file: Annotated[str | None, tyro.conf.arg(name="json")] = None
    """File to write the result to (default: RUN/NAME.json, or runs/evaluate/FILE/NAME.json for
    --weights)."""
    unless_current: bool = False
    """Do nothing where that file was made with the same options, weights and data (of each file
    below DATA: name, length and time)."""

    evaluation: ClassVar[str]
    """Name of the evaluation in its result, and of its file."""
    draws: ClassVar[bool] = False
    """Whether it draws (crops, subsets, a classifier's first weights): seeds are then of that."""
    folders: ClassVar[tuple[str, ...]] = ("train", "val")
    """What is read below DATA."""

    def check(self) -> None:
        """UsageError where options are missing or do not fit together."""
        if bool(self.run) == bool(self.weights):
            raise UsageError("give either --run RUN or --weights FILE")
        name = self.run or self.weights
        if self.draws and "{seed}" in name:
            raise UsageError(
                f"{name}: seeds of `{self.evaluation}` are of its own draws; give one network, and "
                "`report` the runs of several seeds"
            )
        if self.run:
            refuse_unused(self, "stem", "with --run, which has its own")
        if not self.data:
            raise UsageError("give --data DIR, the folder of the data set")
        require(self, seeds=1, size=1, workers=0)
        for source in self.sources():
            if self.run and not source.with_name("config.json").exists():
                raise UsageError(f"{source.parent}: no run here (no config.json)")
            if self.weights and not source.exists():
                raise UsageError(f"{source}: no such file of weights")

    @property
    def network_depends_on_seed(self) -> bool:
        """Whether seeds give different networks."""
        return self.untrained or "{seed}" in (self.run or self.weights or "")

    def with_seed(self, seed: int) -> Self:
        """The same with the run or the weights of a seed."""
        names = (self.run, self.weights)
        run, weights = (name and name.replace("{seed}", str(seed)) for name in names)
        return replace(self, run=run, weights=weights)

    def sources(self) -> list[Path]:
        """The seeds' files of weights."""
        each = map(self.with_seed, range(self.seeds))
        return [Path(part.weights or os.path.join(part.run, "backbone.pt")) for part in each]

    def result(self, protocol: dict, **values) -> dict:
        """What the JSON of every evaluation of a network begins with."""
        return {
            "evaluation": self.evaluation,
            "run": self.run or self.weights,
            "data": self.data,
            "untrained": self.untrained,
            "protocol": protocol,
            **values,
        }

    def result_file(self) -> Path:
        """Where the result is written."""
        if self.json_file:
            return Path(self.json_file)
        ending = "-untrained.json" if self.untrained else ".json"
        seeds = f"0-{self.seeds - 1}"
        if self.run:
            return Path(self.run.replace("{seed}", seeds), self.evaluation + ending)
        return Path(self.folder_of_weights(), self.evaluation + ending)

    def folder_of_weights(self) -> Path:
        """runs/evaluate/FILE, of which OWNER says which file it is of; for another file of that
        name, its path's hash is appended."""
        name = Path(self.weights).name.split(".")[0].replace("{seed}", f"0-{self.seeds - 1}")
        folder, owner = Path("runs", "evaluate", name), os.fsencode(spelling(self.weights))
        with contextlib.suppress(OSError):
            if Path(folder, OWNER).read_bytes() != owner:
                digest = hashlib.blake2b(owner, digest_size=4).hexdigest()
                return folder.with_name(f"{name}-{digest}")
        return folder

    def identity(self) -> dict:
        """The options that the result depends on, as its JSON holds them; paths in one spelling."""
        values = {k: v for k, v in asdict(self).items() if k not in OF_THE_MOMENT}
        for key in ("run", "data", "weights"):
            values[key] = values[key] and spelling(values[key])
        return json.loads(json.dumps(values))

    def inputs(self) -> list[Path]:
        """Files and folders that the result is computed from; some may not be there."""
        places = [Path(self.data, name) for name in self.folders]
        return [*self.sources(), *places, *(Path(f"{place}.tar") for place in places)]

    def made_with(self) -> dict:
        """What a result is known again by: the options, and 16 hex digits of the name, length and
        time of every input file, at the moment of the call."""
        hashed = hashlib.blake2b(digest_size=8)
        for place in self.inputs():
            folder = place.is_dir()
            names = sorted(files_below(os.fspath(place))) if folder else [b""]
            status = stat_files(os.fsencode(place) + b"/" * folder, names)
            for name, (length, time) in zip(names, status.tolist(), strict=True):
                if length or time:
                    hashed.update(b"%s\0%d %d\n" % (name, length, time))
        return {"arguments": self.identity(), "inputs": hashed.hexdigest()}

    def is_current(self, made_with: dict) -> bool:
        """Whether there is a result, and it was made with these options and inputs; one of earlier
        versions, which does not say its inputs, with these options and after the weights."""
        file = self.result_file()
        try:
            result = json.loads(file.read_text())
            newest = max(source.stat().st_mtime_ns for source in self.sources())
            if "inputs" not in result and file.stat().st_mtime_ns > newest:
                result["inputs"] = made_with["inputs"]
            return all(result.get(key) == value for key, value in made_with.items())
        except (OSError, ValueError, TypeError, AttributeError):
            return False

    def kept_file(self, seed: int, part: str = "", ending: str = ".pt") -> Path:
        """Where what is trained is kept: beside the result, and named after it."""
        return beside(self.result_file(), f"{part}-seed{seed}{ending}")


def beside(file: Path, ending: str) -> Path:
    """A file that belongs to a result's: x.json has x-seed0.pt, x.out x.out-seed0.pt."""
    return file.with_name(file.name.removesuffix(".json") + ending)


def spelling(path: str) -> str:
    """An absolute path without a slash at its end, accents composed."""
    return unicodedata.normalize("NFC", os.path.abspath(path))


def command(name: str, module: ModuleType, argv: list[str]) -> None:
    """Run an evaluation as `python -m evaluate NAME ARGV`; see this module's docstring.

    Raises:
        UsageError: bad options or input, or another process that writes the same result.
    """
    arguments = tyro.cli(
        module.Arguments, args=argv, prog=f"python -m evaluate {name}", description=module.__doc__
    )
    network = isinstance(arguments, Common)
    if network:
        arguments.check()
    with (
        ending("stopped; the same command begins again, or goes on from what is kept"),
        reserved(arguments) as first,
    ):
        # before: a file may be changed while it is computed
        made_with = arguments.made_with() if network and first else {}
        if network and arguments.unless_current and _is_current(arguments, made_with):
            text = [f"{arguments.result_file()}: up to date, with the same options and data"]
        else:
            result = module.evaluate(arguments)
            written = publish(module, arguments, result, made_with) if first else []
            text = [*module.lines(result), *written]
        if first:
            print("\n".join(text))


def _is_current(arguments: Common, made_with: dict) -> bool:
    """Common.is_current of the first process, on every one."""
    from train import distributed  # torch: saliency is evaluated without it

    return bool(distributed.any_rank(bool(made_with) and arguments.is_current(made_with)))


@contextmanager
def reserved(arguments: object) -> Iterator[bool]:
    """Join the other processes of an evaluation of a network (train.launch), of which the first
    writes, and hold the lock on the result's file; gives whether this process is the first.

    Raises:
        UsageError: another evaluation holds the lock, or the result's file cannot be meant.
    """
    with contextlib.ExitStack() as stack:
        first = True
        if isinstance(arguments, Common):
            from train import distributed  # torch: saliency is evaluated without it

            distributed.start(arguments.device)
            stack.callback(distributed.stop)
            first = distributed.rank() == 0
        if first and hasattr(arguments, "result_file"):
            file = arguments.result_file()
            refuse_output(file, arguments.inputs() if isinstance(arguments, Common) else [])
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(arguments, Common) and arguments.weights and not arguments.json_file:
                with contextlib.suppress(FileExistsError), open(file.with_name(OWNER), "xb") as out:
                    out.write(os.fsencode(spelling(arguments.weights)))
            # also of what lies beside it
            held = file.with_name(f".{beside(file, '.lock').name}")
            busy = f"{file}: another evaluation is writing it; wait, or choose another --json"
            stack.enter_context(lock(held, busy, remove=True))
        yield first


def refuse_output(file: Path, inputs: Iterable[str | Path]) -> None:
    """UsageError where a file that will be written is a folder, or one of the inputs."""
    if file.is_dir():
        raise UsageError(f"{file}: a folder; give the name of a file to write")
    if os.path.realpath(file) in map(os.path.realpath, inputs):
        raise UsageError(f"{file}: is read, and would be replaced; give another file to write")


def publish(module: ModuleType, arguments: object, result: dict, made_with: dict) -> list[str]:
    """Write the result, and what it was made with, as JSON, and its figures.

    Returns:
        lines that say where; the figures' pictures are no longer in `result`.
    """
    pictures = result.pop("pictures", None)
    if not hasattr(arguments, "result_file"):
        return []
    file = arguments.result_file()
    write_text(file, json.dumps(result | made_with, indent=2) + "\n")
    figures = module.draw(arguments, result, pictures) if hasattr(module, "draw") else []
    return ["written to " + ", ".join(map(str, [file, *figures]))]


def refuse_unused(options: object, names: str, where: str) -> None:
    """UsageError where one of the options that `names` lists was given: they have no effect
    `where`."""
    for entry in fields(options):
        if entry.name in names.split() and getattr(options, entry.name) != entry.default:
            flag = entry.name.replace("_", "-")
            raise UsageError(f"--{flag} has no effect {where}; leave it out")


def repeat(arguments: Common, measure: Callable[[Common, int], dict]) -> dict:
    """Repeat a measurement over --seeds.

    Args:
        measure: (arguments, seed) -> a whole result: "accuracy": {name: number, list of numbers, or
            such a dictionary again}, "protocol", perhaps "per_class". One that draws is repeated
            on the same network. One that draws nothing is repeated over the networks of the seeds;
            where all seeds have the same network, it is measured once and the deviation is 0, which
            the protocol says.

    Returns:
        the first seed's result; with several seeds the means in place of its accuracies,
        "deviation": the sample deviations (divisor n - 1), and "per_seed": each seed's accuracies.
    """
    varies = arguments.draws or arguments.network_depends_on_seed
    seeds = range(arguments.seeds if varies else 1)
    results = [measure(arguments.with_seed(seed), seed) for seed in seeds]
    if arguments.seeds == 1:
        return results[0]
    merged = {**results[0], "run": arguments.run or arguments.weights}
    if not arguments.draws:
        over = "runs" if varies else "nothing that a seed changes"
        over = "first weights" if arguments.untrained else over
        merged["protocol"] |= {"seeds": arguments.seeds, "seeds_over": over}
    accuracies = [result["accuracy"] for result in results] * (arguments.seeds // len(results))
    mean, deviation = partial(np.mean, axis=0), partial(np.std, axis=0, ddof=1)
    merged |= {"accuracy": _merge(accuracies, mean), "deviation": _merge(accuracies, deviation)}
    if "per_class" in merged:
        merged["per_class"] = _merge([result["per_class"] for result in results], mean)
    return merged | {"per_seed": accuracies}


def _merge(values: list, reduce: Callable[[np.ndarray], np.ndarray]) -> dict | list | float:
    """Reduce the numbers of several dictionaries of one layout; keys that one of them lacks are
    left out."""
    if isinstance(values[0], dict):
        keys = [key for key in values[0] if all(key in v for v in values)]
        return {key: _merge([v[key] for v in values], reduce) for key in keys}
    return reduce(np.array(values, float)).tolist()


def describe(protocol: dict) -> str:
    """The protocol's parameters in one line."""
    return ", ".join(f"{k} {v}" for k, v in protocol.items())


def aligned(rows: dict[str, dict[str, str]]) -> list[str]:
    """A table for a terminal, a row a line, from row -> column -> cell; "-" where there is none."""
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    table = {"": {column: column for column in columns}} | rows
    lines = [f"{name:<{max(map(len, table))}}" for name in table]
    for column in columns:
        cells = [row.get(column, "-") for row in table.values()]
        width = max(map(len, cells)) + 2
        lines = [line + f"{cell:>{width}}" for line, cell in zip(lines, cells, strict=True)]
    return lines


def percent(result: dict, *keys: str) -> str:
    """One accuracy of a result of `repeat` for people: "71.30 %", or "71.30 ± 0.12 %"."""
    mean, deviation = result["accuracy"], result.get("deviation")
    for key in keys:
        mean, deviation = mean[key], deviation and deviation[key]
    return f"{mean:6.2f} %" if deviation is None else f"{mean:6.2f} ± {deviation:.2f} %"
