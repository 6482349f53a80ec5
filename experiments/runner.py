"""Images, masks, trainings and measurements of a table's rows; what is there already is kept, so
that a stopped table continues."""

import contextlib
import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import cv2
import torch
from tqdm import tqdm

from benchmarks.publish import about
from data.cache.description import load_description
from data.cache.shard import CacheError
from data.cli import UsageError
from data.io import lock, read_json, write_text
from data.resize import resize
from data.sources.images import decode, list_images, read_bytes
from experiments.jobs import call
from experiments.measure import measure
from experiments.rows import Data, Row, method_flags, real_data, rows_of
from preprocess.estimators import NETWORKS

RESULT = "result.json"


class Result(TypedDict):
    """What one run's result.json holds: `measured` is measure's, with what tables add later;
    `untrained` likewise, of rows without DiLo only."""

    seed: int
    command: str
    commit: str
    date: str
    machine: str
    measured: dict[str, Any]
    untrained: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """One table on one data set, in a folder of runs.

    Attributes:
        table: "e1" ... "e6".
        out: folder of the data set's runs, masks and copies.
        workers: processes that decode for a training.
    """

    table: str
    data: Data
    out: Path
    workers: int = 0

    @property
    def rows(self) -> dict[str, Row]:
        """Label -> row."""
        return rows_of(self.table, self.data.name)

    @property
    def images(self) -> Path:
        """Folder of images that are trained on and measured with."""
        if not self.data.source:
            return self.out / "images"
        return self.out / f"images-{self.data.stored}" if self.data.stored else self.originals

    @property
    def originals(self) -> Path:
        """Folder of images that masks are made of."""
        return Path(self.data.source or self.images)

    def cache(self, row: Row) -> Path:
        """The row's mask cache."""
        return self.out / f"masks-{row.masks}-{row.side}"

    def file(self, label: str, seed: int) -> Path:
        """Where a run's numbers are kept."""
        return self.out / self.rows[label].folder(self.data) / f"seed{seed}" / RESULT

    def results(self, label: str) -> dict[Path, Result]:
        """File -> numbers of the finished runs of a row, by seed."""
        files = (self.out / self.rows[label].folder(self.data)).glob(f"seed*/{RESULT}")
        results = {file: read_result(file) for file in files}
        return dict(sorted(results.items(), key=lambda item: item[1]["seed"]))


def save(file: Path, content: Any) -> None:
    """Write JSON atomically, with the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")


def read_result(file: Path) -> Result:
    """A run's numbers. UsageError where the file is damaged."""
    try:
        return checked(read_json(file))
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{file}: damaged; delete it and the same command measures it again"
        ) from None


def checked(result: Any) -> Result:
    """The same; ValueError, KeyError or TypeError where it is not a run's numbers."""
    numbers = [result["seed"], result["measured"]["knn"], result["measured"]["linear"]]
    if "untrained" in result:
        numbers.append(result["untrained"]["knn"])
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError(f"not numbers: {numbers}")
    return result


def stamp() -> dict[str, str]:
    """{"commit" with + where files were changed since, "date", "machine": the GPU, or else the
    processor}."""
    known = about()
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else known["machine"]
    return {"commit": known["commit"], "date": known["date"], "machine": machine}


def prepare(study: Study) -> None:
    """Make the images that are trained on, where they are missing.

    Raises:
        UsageError: the real images are not there.
    """
    data = study.data
    if not data.source:
        train, probe, test = map(str, data.images)
        sizes = ("--train", train, "--probe", probe, "--test", test)
        with alone(study.images):
            call("data", "synthetic", str(study.images), *sizes)
    elif not Path(data.source, "train").is_dir():
        raise UsageError(
            f"{data.source}: no Imagenette there; set DILO_SHARED to the folder whose "
            "data/imagenette_128 holds it"
        )
    elif data.stored:
        squash(study.originals, study.images, data.stored)


def squash(source: Path, target: Path, side: int, suffix: str = "") -> None:
    """Copy a folder of images at side x side pixels, once.

    Args:
        suffix: of the copies' names, which decides their format; "" keeps each one's own.
    """
    with alone(target):
        if (target / "done").exists():
            return
        names = list_images(source).tolist()
        for name in tqdm(names, desc=f"copies of {side} px", unit="image"):
            image = resize(decode(read_bytes(source, name)), side, side)
            file = target / os.fsdecode(name)
            file = file.with_suffix(suffix or file.suffix)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(file), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise OSError(f"{file}: could not be written; is the disk full?")
        write_text(target / "done", "")


def alone(folder: Path) -> AbstractContextManager[None]:
    """Of commands side by side that share their folder, one at a time makes what `folder` holds;
    the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    busy = f"waiting for the process that makes {folder}"
    return lock(folder.with_name(f".{folder.name}.lock"), busy, wait=True)


def make_masks(
    source: Path,
    cache: Path,
    masks: str,
    side: int,
    *options: str,
    workers: int = 1,
    ends: float = math.inf,
) -> str:
    """Make a mask cache, or bring it up to date; its folder.

    Args:
        options: of `python -m preprocess`.
        ends: `time.monotonic()` at which it is stopped, with a TimeoutError.
    """
    options += ("--side", str(side), "--workers", str(workers))
    with alone(cache):
        call("preprocess", str(source), str(cache), "--estimator", masks, *options, ends=ends)
    return str(cache)


def device_options(masks: str, cache: Path, device: str = "cpu") -> tuple[str, ...]:
    """Options of `python -m preprocess`: a network computes where the cache's masks were made, or
    else on `device`."""
    if masks not in NETWORKS:
        return ()
    with contextlib.suppress(CacheError):  # none is there yet
        device = load_description(cache)["identity"]["device"]
    return ("--device", device)


def run_row(study: Study, label: str, seed: int) -> Result | None:
    """Train and measure one row with one seed, or read what was measured before.

    Returns:
        The numbers, also written to the run's folder; None where the row cannot be run here.
    """
    file, row = study.file(label, seed), study.rows[label]
    where = (file.parent, study.data, study.images, study.workers)
    if file.exists():
        result = read_result(file)
    elif lacking := next((path for path in needs(row) if not path.exists()), None):
        print(
            f"not run: {lacking} is missing; set DILO_SHARED to the folder whose data/ holds it",
            flush=True,
        )
        return None
    else:
        command = _train(study, row, seed, file.parent)
        result = {"seed": seed, "command": command, **stamp(), "measured": measure(*where)}
    if row.masks == "none" and "untrained" not in result:
        result["untrained"] = measure(*where, untrained=True)
    save(file, result)
    return result


def needs(row: Row) -> list[Path]:
    """Real data that a row needs besides its images."""
    textures = [real_data("dtd")] if "textures" in dict(row.options) else []
    return textures + ([real_data("weights") / "u2netp.pth"] if row.masks == "u2netp" else [])


def _train(study: Study, row: Row, seed: int, folder: Path) -> str:
    data, masks = study.data, "none"
    if row.masks != "none":
        estimator, options = row.masks, device_options(row.masks, study.cache(row))
        if row.masks == "truth":
            estimator, options = "files", ("--maps", str(study.images / "masks" / "train"))
        source = study.originals / "train"
        masks = make_masks(source, study.cache(row), estimator, row.side, *options)
    arguments = ["--masks", masks, "--preset", data.preset, "--epochs", str(data.epochs)]
    arguments += ["--seed", str(seed), *method_flags(data, row)]
    arguments += ["--threads", "1", "--workers", str(study.workers), "--out", str(folder)]
    return call("train", str(study.images / "train"), *arguments)


def unpack(known: Path, study: Study, replaced: bool = True) -> dict[str, dict[str, float]]:
    """Write the runs of KNOWN/DATA/TABLE.json, as a table's command wrote it, beside the study's
    own, which stay as they are.

    Only their numbers: what needs weights is not measured for them later.

    Args:
        replaced: the file is going to be written again, so none of its runs may be left out; else
            those of another budget are.

    Returns:
        label -> the scores of its masks there.

    Raises:
        UsageError: the file is not a table's, or it has runs that the study's table would not have.
    """
    file = known / study.data.name / f"{study.table}.json"
    if not file.exists():
        return {}
    try:
        table = read_json(file)
        runs = {k: [checked(run) for run in entry["runs"]] for k, entry in table["rows"].items()}
        masks = {k: entry["mask"] for k, entry in table["rows"].items() if entry["mask"]}
        foreign = _foreign(table, study, {label for label in runs if runs[label]})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{file}: not the numbers of a table; give a folder that --known wrote before"
        ) from None
    if foreign and replaced:
        raise UsageError(f"{file}: {foreign}; give another folder, or move this file away")
    for label in study.rows.keys() & (() if foreign else runs.keys()):
        for result in runs[label]:
            place = study.file(label, int(result["seed"]))
            if not place.exists():
                save(place, result)
    return {label: scores for label, scores in masks.items() if label in study.rows}


def _foreign(table: dict[str, Any], study: Study, labels: set[str]) -> str:
    """Why a table's runs are not the study's, "" where they are."""
    data = study.data
    budgets = (table["preset"], table["epochs"], table["stored"])
    if budgets != (data.preset, data.epochs, data.stored):
        words = "made with preset {}, {} epochs and copies of {} px, not with {}, {} and {}"
        return words.format(*budgets, data.preset, data.epochs, data.stored)
    lost = ", ".join(sorted(labels - study.rows.keys()))
    return f"has runs of rows that {study.table} does not have ({lost})" if lost else ""
