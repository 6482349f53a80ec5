"""The driver of the batch stage: blocks of images to workers, their rows in order to shards.

It alone writes, and the same command continues: a kill loses at most the shard in progress. See
preprocess/plan.py for what is computed, and preprocess/writer.py for what is written.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from data.cache.description import DamagedDescription, Description, identity_hash, load_description
from data.cache.index import read_index
from data.cache.reader import Cache
from data.cache.shard import NAME, SCHEMA, CacheError, Rows, empty_rows, open_shard, read_rows
from data.cache.verify import old_shards
from data.cli import UsageError
from data.io import Busy, lock, remove_temporary
from data.parallel import WorkerDied, alone, bounded_map
from data.sources.images import Images, open_images
from preprocess import writer
from preprocess.estimators.files import map_file
from preprocess.networks import batches
from preprocess.plan import (
    Existing,
    Plan,
    Source,
    Work,
    damaged_shards,
    existing_shards,
    whole_shards,
)
from preprocess.progress import Outcome, Report
from preprocess.recipe import Recipe, crashed_row

AHEAD = 8  # blocks a worker in flight: one slow block does not leave the other workers idle
AHEAD_OF_DEVICE = 2  # an image as a network sees it is 20 times a mask


def build(
    root: str,
    folder: str,
    recipe: Recipe,
    shard_size: int = 4096,
    listed: str | None = None,
    **options,
) -> Outcome:
    """Make, complete or bring up to date the mask cache `folder` of all images under `root`.

    Args:
        shard_size: images a shard.
        listed: text file of relative paths, instead of all images under the root.
        options: fields of Run, from `workers` on.

    Raises:
        UsageError: no images, no map for any of them, a folder that holds another cache or other
            files, or that another process writes.
        OSError: no space, a read-only folder; what is finished stays, and nothing half-written has
            a final name.
    """
    began = time.perf_counter()
    images, recipe = open_images(os.path.abspath(root), listed), recipe.absolute()
    source = Source(images, recipe.keys(images), recipe, shard_size)
    run = Run(source, Path(folder), began=began, **options)
    _require_maps(run.source)
    run.check_folder()  # before a lock's file is put into it
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        with writer.writing(run.folder, run.part):
            return run.bring_up_to_date(run.check_folder())
    except Busy:  # of many jobs that start with this command on a finished cache, none may fail
        if run.repair or (done := run.finished()) is None:
            raise
        return done


def _require_maps(source: Source) -> None:
    """UsageError where masks come from files, and no image has one or one is an image itself."""
    maps, images = source.recipe.maps, source.images
    if source.recipe.estimator != "files":
        return
    below = os.path.relpath(os.path.realpath(maps), os.path.realpath(images.root))
    paths = [] if below.startswith("..") else images.paths.tolist()
    files = {os.path.normpath(map_file(below, path)) for path in paths}
    among = files.intersection(map(os.fsdecode, paths))
    if among:
        raise UsageError(
            f"--maps {maps}: maps lie among the images (first: {min(among)}); give each a folder "
            "of its own, or name the images alone with --list"
        )
    if source.keys[:, 2:].any():
        return
    file = map_file(maps, images.paths[0])
    flat = os.path.exists(os.path.join(maps, os.path.basename(file)))
    reason = "maps lie flat in that folder, bring them into" if flat else "maps must lie at"
    raise UsageError(
        f"--maps {maps}: no map for any of the {len(images)} images (first: no {file}); {reason} "
        "the images' relative paths, as .png"
    )


def _check_same(folder: Path, before: Description, description: Description) -> None:
    old, new = ({**d["identity"], "shard_size": d["shard_size"]} for d in (before, description))
    keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    different = "; ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)
    if different:
        raise UsageError(
            f"{folder}: holds a cache made with other parameters ({different}); choose another "
            "folder, or delete this one"
        )


def _identity(folder: Path) -> str | None:
    """Of the first shard in a folder that can be read."""
    for file in sorted(folder.glob("shard-*.h5")):
        with contextlib.suppress(CacheError, OSError), open_shard(file) as shard:
            return shard.attrs["identity"]
    return None


@dataclass
class Run:
    """One run: what it makes, where, and how, as far as the masks do not depend on it.

    Attributes:
        workers: processes that decode and estimate; 0 computes in this one.
        part: (I, N), 1 <= I <= N: every N-th shard only; the last part to end finishes the cache.
        cluster: address of a dask.distributed scheduler, whose workers are used.
        repair: check every shard's bytes, and rebuild the damaged ones.
        digest: compare all contents with the digests of their rows, not only lengths and mtimes.
        began: time.perf_counter() at the start.
    """

    source: Source
    folder: Path
    workers: int = 0
    part: tuple[int, int] | None = None
    cluster: str | None = None
    repair: bool = False
    digest: bool = False
    began: float = field(default_factory=time.perf_counter)

    @cached_property
    def description(self) -> Description:
        """Of the cache to be, without its shards."""
        identity = self.source.recipe.identity()
        return {
            "schema": SCHEMA,
            "identity": identity,
            "identity_hash": identity_hash(identity),
            "shard_size": self.source.shard_size,
            "images": len(self.source.images),
            "shards": [],
            "statuses": {},
        }

    @property
    def identity(self) -> str:
        return self.description["identity_hash"]

    def check_folder(self) -> Description | None:
        """The description in the folder, None where it holds none that is sound.

        Raises:
            UsageError: the folder is neither empty nor this very cache, in whatever state.
        """
        if (self.folder / "cache.json").exists():
            try:
                before = load_description(self.folder)
            except DamagedDescription:
                if not self.repair:
                    raise
            else:
                _check_same(self.folder, before, self.description)
                return before
        own = {"CHECKSUMS", "index.h5", "cache.json", writer.FAILURES}
        for name in sorted(file.name for file in self.folder.glob("*")):
            known = name in own or NAME.fullmatch(name) or name.endswith(".tmp")
            if not known and not name.startswith((".", "log.")):
                raise UsageError(
                    f"{self.folder}: holds {name} but no cache.json; choose an empty folder for "
                    "the cache"
                )
        if _identity(self.folder) not in (None, self.identity):
            raise UsageError(
                f"{self.folder}: holds shards of an unfinished cache made with other parameters; "
                "choose another folder, or delete this one"
            )
        return None

    def finished(self) -> Outcome | None:
        """The outcome where there is nothing to do, by reading alone."""
        before = self.check_folder()
        if before and self._look(before)[1]:
            return self._outcome(before["statuses"])
        return None

    def _look(self, before: Description | None, damaged: Iterable[str] = ()) -> tuple[Plan, bool]:
        """What is to be made, and whether that is nothing."""
        first, step = self.part or (1, 1)
        numbers = range(first - 1, self.source.shards, step)
        current = before["shards"] if before else []
        existing = existing_shards(self.folder, self.identity, current, damaged)
        plan = Plan(self.folder, self.source, existing, numbers, self.digest)
        finished = not plan.work and self._files(existing, plan.kept) == current
        return plan, bool(before and finished and read_index(self.folder, before) is not None)

    def bring_up_to_date(self, before: Description | None) -> Outcome:
        """Make what is to be made.

        Args:
            before: of the finished cache in the folder, if there is one.
        """
        if self.part is None:
            remove_temporary(self.folder)
        current = before["shards"] if before else []
        damaged = damaged_shards(self.folder, current) if self.repair else {}
        plan, finished = self._look(before, damaged)
        # a repair writes CHECKSUMS, failures.tsv and the index again
        if finished and not self.repair:
            return self._outcome(before["statuses"])
        with Report(self.folder, self.part, plan.rows) as report:
            report.event(
                "start",
                images=len(self.source.images),
                rows=plan.rows,
                compute=plan.computed,
                identity=self.description["identity"],
                workers=self.workers,
                part=self.part,
                dask=self.cluster,
                damaged=damaged,
            )
            written = self._write(plan.work, report)
            # of several parts that end together, one after the other looks whether all is there
            with lock(self.folder / ".lock-finish", wait=True):
                outcome = self._finish(plan, written, report)
            report.event("end", **asdict(outcome), complete=outcome.complete)
        return outcome

    def _files(self, existing: list[Existing], own: dict[int, str]) -> list[str]:
        """The cache's shards in order as far as they are there, this run's `own` and those of other
        parts."""
        files = {n: shard.name for n, shard in whole_shards(existing, self.source).items()} | own
        return [files[number] for number in sorted(files)]

    def _finish(self, plan: Plan, written: dict[int, writer.Written], report: Report) -> Outcome:
        """Commit if all shards are there."""
        own = plan.kept | {number: shard.name for number, shard in written.items()}
        existing = []
        if len(own) < self.source.shards:
            existing = existing_shards(self.folder, self.identity)
        files = self._files(existing, own)
        lacking = self.source.shards - len(files)
        statuses = report.statuses
        if not lacking:
            digests = {shard.name: shard.digest for shard in written.values()}
            statuses = writer.commit(self.folder, self.description, files, digests)
        return self._outcome(
            statuses,
            computed=plan.computed,
            copied=plan.rows - plan.computed,
            workers=max(1, self.workers),
            bytes=sum(shard.size for shard in written.values()),
            lacking=lacking,
        )

    def _outcome(self, statuses: dict[str, int], **counts: int) -> Outcome:
        if not counts.get("lacking"):
            cache = Cache(self.folder)
            coverage = cache.column("quality/coverage")
            counts["empty"] = int(((cache.status == 0) & (coverage == 0)).sum())
            counts["old_bytes"] = sum(file.stat().st_size for file in old_shards(self.folder))
        seconds = round(time.perf_counter() - self.began, 3)
        return Outcome(len(self.source.images), seconds, statuses, **counts)

    def _write(self, work: list[Work], report: Report) -> dict[int, writer.Written]:
        """Compute and write the shards of `work` in order, each as soon as its last block is
        there; by number."""
        recipe = self.source.recipe
        with contextlib.ExitStack() as running:  # whatever ends the run also ends the workers
            results = bounded_map(
                batches.work_of(recipe),
                (self.source.images.take(rows) for shard in work for rows in self._split(shard)),
                self.workers,
                cluster=self.cluster,
                needs=self.source.files(),
                ahead=AHEAD_OF_DEVICE if recipe.on_device else AHEAD,
                rescue=Rescue(recipe, report),
            )
            running.enter_context(contextlib.closing(results))
            if recipe.on_device:
                results = batches.infer(results, recipe, threads=self.workers)
                running.enter_context(contextlib.closing(results))
            return {shard.number: self._write_shard(shard, results, report) for shard in work}

    def _split(self, work: Work) -> list[np.ndarray]:
        """The rows of the run that are computed for a shard, block by block."""
        size = self.source.recipe.block
        return [work.compute[i : i + size] for i in range(0, len(work.compute), size)]

    def _write_shard(self, work: Work, results: Iterator[Rows], report: Report) -> writer.Written:
        began = time.perf_counter()
        first = work.rows[0]
        paths = self.source.images.paths
        rows = empty_rows(paths[work.rows], self.source.recipe.side)
        for target in self._split(work):
            computed = next(results)
            # never a mask in another image's row
            if not np.array_equal(computed["path"], paths[target]):
                raise RuntimeError(f"the rows of {computed['path'][0]} came out of order")
            _put(computed, slice(None), rows, target - first, report)
        for name, origin, target in work.copies:
            _put(read_rows(self.folder / name), origin, rows, target - first, report)
        rows["key"] = self.source.keys[work.rows]
        written = writer.write_shard(self.folder, work.number, rows, self.identity)
        report.event(
            "shard",
            name=written.name,
            rows=len(rows["status"]),
            failed=int((rows["status"] != 0).sum()),
            seconds=round(time.perf_counter() - began, 3),
        )
        return written


def _put(
    source: Rows, origin: np.ndarray | slice, target: Rows, rows: np.ndarray, report: Report
) -> None:
    for column in target:
        target[column][rows] = source[column][origin]
    report.rows(source["status"][origin])


@dataclass
class Rescue:
    """Makes the rows of a block that was in flight when a worker died: alone in a process of its
    own, then halved until the image is found that kills its process."""

    recipe: Recipe
    report: Report
    death: Exception | None = None

    def __call__(self, images: Images, death: Exception) -> Rows:
        if death is not self.death:
            self.report.event("worker died", error=type(death).__name__, first=images.name(0))
        self.death = death
        return self._compute(images)

    def _compute(self, images: Images) -> Rows:
        with contextlib.suppress(WorkerDied):
            return alone(batches.work_of(self.recipe), images)
        if len(images) == 1:
            self.report.event("crashed", path=images.name(0))
            return crashed_row(images, self.recipe)
        middle = len(images) // 2
        halves = [self._compute(images.take(part)) for part in (slice(middle), slice(middle, None))]
        return {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
