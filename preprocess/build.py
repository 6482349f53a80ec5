"""The driver of the batch stage: blocks of images to workers, their rows in order to shards.

It alone writes, and the same command continues: shards are immutable and appear whole or not at
all, so a kill loses at most the one in progress. See preprocess/plan.py for what is computed, and
preprocess/commit.py for what is written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cache import shard as shards
from data.cache.index import PROGRESS, read_index, shard_files
from data.cache.reader import load_description
from data.cli import UsageError
from data.io import write_text
from data.sources.images import Images, open_images
from preprocess import commit, plan
from preprocess.engine import compute
from preprocess.networks.batches import infer
from preprocess.plan import Plan, Work
from preprocess.progress import Outcome, Report
from preprocess.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """How a cache is made, as far as its masks do not depend on it.

    Attributes:
        shard_size: images a shard.
        workers: processes that decode and estimate; 0 computes in this one.
        listed: text file of relative paths, instead of all images under the root.
        part: (I, N), 1 <= I <= N: every N-th shard only; the last part to end finishes the cache.
        cluster: address of a dask.distributed scheduler, whose workers are used.
        repair: check every shard's bytes, and make the damaged ones anew.
        digest: compare all images' contents with the digests of their masks, not only lengths and
            mtimes.
    """

    shard_size: int = 4096
    workers: int = 0
    listed: str | None = None
    part: tuple[int, int] | None = None
    cluster: str | None = None
    repair: bool = False
    digest: bool = False


def build(
    root: str, folder: str, recipe: Recipe, shard_size: int = 4096, workers: int = 0, **options
) -> Outcome:
    """Make, complete or bring up to date the mask cache `folder` of all images under `root`; see
    Options.

    Raises:
        UsageError: no images, a folder that holds another cache or other files, or that another
            process writes.
        OSError: no space, a read-only folder; what is finished stays, and nothing half-written has
            a final name.
    """
    chosen = Options(shard_size, workers, **options)
    start = time.perf_counter()
    images = open_images(root, chosen.listed)
    sources = images.stat()
    folder = Path(folder)
    description = _describe(images, recipe, chosen.shard_size)
    _check_folder(
        folder, description, chosen.repair
    )  # before a lock file is put into a folder of something else
    folder.mkdir(parents=True, exist_ok=True)
    with commit.lock(folder, chosen.part):
        before = _check_folder(
            folder, description, chosen.repair
        )  # another process may have finished meanwhile
        if not chosen.repair and not chosen.digest and is_up_to_date(folder, images.paths, sources):
            if chosen.part is None and commit.has_leftovers(folder):
                commit.clean(folder)
            return Outcome(
                len(images), 0, time.perf_counter() - start, load_description(folder)["statuses"]
            )
        return _bring_up_to_date(
            images, sources, folder, recipe, chosen, description, before, start
        )


def is_up_to_date(folder: Path, paths: np.ndarray, sources: np.ndarray) -> bool:
    """True where the cache is finished, whole in length, and its images are unchanged; reads no
    image."""
    try:
        description = load_description(folder)
    except shards.CacheError:
        return False
    index = read_index(folder, description) if description["complete"] else None
    if index is None:
        return False
    sizes = zip(shard_files(description), index["file_bytes"].tolist(), strict=True)
    if any(
        not (folder / name).exists() or (folder / name).stat().st_size != size
        for name, size in sizes
    ):
        return False
    return np.array_equal(index["path"], paths) and np.array_equal(index["sources"], sources)


def _describe(images: Images, recipe: Recipe, shard_size: int) -> dict:
    identity = recipe.identity()
    name = Path(images.root).resolve().name
    return {
        "schema": shards.SCHEMA,
        "identity": identity,
        "identity_hash": shards.identity_hash(identity),
        "images_root": name.removesuffix(".tar"),
        "shard_size": shard_size,
        "images": len(images),
        "shards": -(-len(images) // shard_size),
        "generation": 1,
        "complete": False,
    }


def _check_folder(folder: Path, description: dict, repair: bool) -> dict | None:
    """The description in the folder, None where it holds none. UsageError unless it is empty or
    holds this very cache, in whatever state."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a folder for a cache")
    if (folder / "cache.json").exists():
        try:
            found = load_description(folder)
        except shards.CacheError:
            if not repair:
                raise
            return None
        old, new = ({**d["identity"], "shard_size": d["shard_size"]} for d in (found, description))
        different = [
            f"{key} {old.get(key)} -> {new.get(key)}"
            for key in sorted(old | new)
            if old.get(key) != new.get(key)
        ]
        if different:
            raise UsageError(
                f"{folder}: holds a cache made with other parameters ({'; '.join(different)}); "
                "choose another folder, or delete this one"
            )
        return found
    own = {"CHECKSUMS", "index.h5", commit.FAILURES}
    for file in sorted(folder.iterdir()):
        name = file.name
        if plan.NAME.fullmatch(name):
            _check_identity(file, description["identity_hash"])
        elif not (name in own or name.startswith((".", "log.")) or name.endswith(".tmp")):
            raise UsageError(
                f"{folder}: holds {name} but no cache.json; choose an empty folder for the cache"
            )
    return None


def _check_identity(file: Path, identity_hash: str) -> None:
    """UsageError where a shard without a cache.json was made with other parameters: it must not be
    overwritten."""
    try:
        with shards.open_shard(file) as shard:
            found = shard.attrs["identity"]
    except (shards.CacheError, OSError, KeyError, RuntimeError):
        return  # damaged: nothing to lose
    if found != identity_hash:
        raise UsageError(
            f"{file}: made with other parameters, and its cache.json is missing; choose another folder, "
            "or delete this one"
        )


def _bring_up_to_date(
    images: Images,
    sources: np.ndarray,
    folder: Path,
    recipe: Recipe,
    chosen: Options,
    description: dict,
    before: dict | None,
    start: float,
) -> Outcome:
    # a complete one stays the cache until the commit
    if before is None or (chosen.part is None and not before["complete"]):
        commit.write_description(folder, description)
    damaged = plan.damaged_shards(folder, before) if chosen.repair else {}
    found = plan.existing_shards(folder, before, description["identity_hash"], set(damaged))
    generation = _generation(folder, images, before, chosen.part)
    unchanged = plan.Unchanged(folder, images, sources, chosen.digest)
    todo = plan.make_plan(
        folder, images, sources, chosen.shard_size, before, found, generation, unchanged
    )
    work = [
        w
        for w in todo.work
        if chosen.part is None or w.number % chosen.part[1] == chosen.part[0] - 1
    ]
    rows = sum(w.rows.stop - w.rows.start for w in work)
    computed = sum(len(w.compute) for w in work)
    with Report(folder, chosen.part, len(images), rows, chosen.workers) as report:
        report.event(
            "start",
            images=len(images),
            rows=rows,
            compute=computed,
            identity=description["identity"],
            workers=chosen.workers,
            part=chosen.part,
            dask=chosen.cluster,
            damaged=damaged,
        )
        written = _write(
            images, sources, folder, recipe, chosen, description["identity_hash"], work, report
        )
        statuses, complete = report.statuses, True
        if chosen.part is None:
            statuses = commit.commit(folder, description, todo.files, todo.generation, sources)
        else:
            with commit.finishing(folder):
                complete = all((folder / name).exists() for name in todo.files)
                if complete:
                    sources = _sources_of_parts(folder, todo, work, sources, chosen.shard_size)
                    statuses = commit.commit(
                        folder, description, todo.files, todo.generation, sources
                    )
        outcome = Outcome(
            len(images),
            computed,
            time.perf_counter() - start,
            statuses,
            rows - computed,
            max(1, chosen.workers),
            written,
            complete,
        )
        report.end(outcome)
    return outcome


def _generation(
    folder: Path, images: Images, before: dict | None, part: tuple[int, int] | None
) -> int:
    """The number of the generation in progress; a new one where none is, or it is of another list
    of images."""
    listed = plan.list_hash(images.paths)
    file = folder / PROGRESS / "plan.json"
    try:
        begun = json.loads(file.read_text())
        if begun["list"] == listed:
            return begun["generation"]
    except (OSError, ValueError, KeyError):
        begun = None
    if begun and part is not None:
        raise UsageError(
            f"{folder}: other parts of this cache were begun on another list of images; let them end, or "
            "run once without --part"
        )
    # nothing but lost shards of a cache that is not even begun again: the first generation's names
    generation = plan.free_generation(folder, before)
    if begun is None and (before is None or not before["complete"]):
        generation = 1
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps({"generation": generation, "list": listed}))
    return generation


def _write(
    images: Images,
    sources: np.ndarray,
    folder: Path,
    recipe: Recipe,
    chosen: Options,
    identity_hash: str,
    work: list[Work],
    report: Report,
) -> int:
    """Compute and write the shards of `work` in order, each as soon as its last block is there;
    bytes written."""
    with (
        ExitStack() as running
    ):  # whatever ends the run also ends the workers, who may be blocks ahead
        results = running.enter_context(
            closing(
                compute(
                    _blocks(images, work, recipe.block),
                    recipe,
                    chosen.workers,
                    chosen.cluster,
                    report.event,
                )
            )
        )
        if recipe.on_device:
            results = running.enter_context(
                closing(infer(results, recipe, report.event, threads=chosen.workers))
            )
        return _write_shards(images, sources, folder, recipe, identity_hash, work, report, results)


def _write_shards(
    images: Images,
    sources: np.ndarray,
    folder: Path,
    recipe: Recipe,
    identity_hash: str,
    work: list[Work],
    report: Report,
    results: Iterator[dict[str, np.ndarray]],
) -> int:
    written = 0
    for shard in work:
        began = time.perf_counter()
        first = shard.rows.start
        rows = shards.empty_rows(shard.rows.stop - first, recipe.side, images.paths[shard.rows])
        for name, origin, target in shard.copies:
            source = shards.read_rows(folder / name)
            for column in shards.COLUMNS:
                rows[column][target - first] = source[column][origin]
            report.rows(source["status"][origin])
        for block in range(0, len(shard.compute), recipe.block):
            target = shard.compute[block : block + recipe.block] - first
            made = next(results)
            for column in shards.COLUMNS:
                rows[column][target] = made[column]
            report.rows(made["status"])
        written += commit.write_shard(folder, shard.name, rows, identity_hash, sources[shard.rows])
        report.event(
            "shard",
            name=shard.name,
            rows=len(rows["status"]),
            failed=int((rows["status"] != 0).sum()),
            seconds=round(time.perf_counter() - began, 3),
        )
    for _ in results:  # lets joblib end its round
        raise AssertionError("more blocks than the plan has")
    return written


def _blocks(images: Images, work: list[Work], size: int) -> Iterator[Images]:
    for shard in work:
        for first in range(0, len(shard.compute), size):
            yield images.take(shard.compute[first : first + size])


def _sources_of_parts(
    folder: Path, todo: Plan, work: list[Work], sources: np.ndarray, shard_size: int
) -> np.ndarray:
    """As `sources`, but of the shards that other parts wrote as they saw them: a change meanwhile
    is noticed later."""
    own = {w.name for w in work}
    sources = sources.copy()
    for number, name in enumerate(todo.files):
        noted = None if name in own else commit.noted_sources(folder, name)
        if noted is not None:
            sources[number * shard_size : number * shard_size + len(noted)] = noted
    return sources
