"""The driver of the batch stage: blocks of images to workers, their rows in order to shards.

It alone writes, and the same command continues: shards are immutable and appear whole or not at all, so a kill loses
at most the one in progress.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from data import shards
from data.cache import build_index, load_description, status_counts, write_index
from data.cli import UsageError
from data.images import ImageError, list_images, read_bytes
from preprocess.blocks import BLOCK, Recipe, compute_block, digest


@dataclass(frozen=True)
class Outcome:
    """What a run did: `computed` images of `images`, in `seconds`; `statuses` counts the whole cache by status name."""

    images: int
    computed: int
    seconds: float
    statuses: dict[str, int]


def build(root: str, folder: str, recipe: Recipe, shard_size: int = 4096, workers: int = 1) -> Outcome:
    """Make or complete the mask cache `folder` of all images under `root`.

    Args:
        shard_size: images a shard.
        workers: processes that decode and estimate; the cache's bytes do not depend on it.

    Raises:
        UsageError: no images, a folder that holds another cache or other files, images that changed since.
    """
    start = time.perf_counter()
    paths = list_images(root)
    sources = stat_sources(root, paths)
    folder = Path(folder)
    description = _describe(root, paths, recipe, shard_size)
    if folder.exists():
        _check_folder(folder, description)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if is_up_to_date(folder, paths, sources):
            return Outcome(len(paths), 0, time.perf_counter() - start, load_description(folder)["statuses"])
        _write_description(folder, description)
        todo = _missing_shards(root, folder, description, paths, sources)
        computed = _compute(root, folder, description, recipe, paths, sources, todo, workers)
        statuses = _finish(folder, description, sources)
    return Outcome(len(paths), computed, time.perf_counter() - start, statuses)


def stat_sources(root: str, paths: np.ndarray) -> np.ndarray:
    """(N, 2) int64: byte length and mtime in nanoseconds of each image; zeros where it vanished."""
    sources = np.zeros((len(paths), 2), "<i8")
    prefix = os.fsencode(root) + b"/"
    for i, path in enumerate(paths.tolist()):
        try:
            stat = os.stat(prefix + path)
        except OSError:
            continue
        sources[i] = stat.st_size, stat.st_mtime_ns
    return sources


def is_up_to_date(folder: Path, paths: np.ndarray, sources: np.ndarray) -> bool:
    """True where the cache is finished, whole in length, and its images are unchanged; reads no image."""
    try:
        if not load_description(folder)["complete"]:
            return False
        with h5py.File(folder / "index.h5", "r", locking=False) as index:
            sizes = index["file_bytes"][...].tolist()
            if any(_size(folder / shards.shard_name(i)) != size for i, size in enumerate(sizes)):
                return False
            return np.array_equal(index["path"][...], paths) and np.array_equal(index["sources"][...], sources)
    except (shards.CacheError, OSError, KeyError):
        return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _describe(root: str, paths: np.ndarray, recipe: Recipe, shard_size: int) -> dict:
    identity = recipe.identity()
    return {
        "schema": shards.SCHEMA,
        "identity": identity,
        "identity_hash": shards.identity_hash(identity),
        "images_root": Path(root).resolve().name,
        "shard_size": shard_size,
        "images": len(paths),
        "shards": -(-len(paths) // shard_size),
        "complete": False,
    }


def _write_description(folder: Path, description: dict) -> None:
    shards.write_text(folder / "cache.json", json.dumps(description, indent=2) + "\n")


def _check_folder(folder: Path, description: dict) -> None:
    """UsageError unless the folder is empty or holds this very cache, in whatever state."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a folder for a cache")
    if not (folder / "cache.json").exists():
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.suffix != ".tmp")
        if others:
            raise UsageError(f"{folder}: holds {others[0]} but no cache.json; choose an empty folder for the cache")
        return
    found = load_description(folder)
    old, new = ({**d["identity"], "shard_size": d["shard_size"]} for d in (found, description))
    different = [f"{key} {old.get(key)} -> {new.get(key)}" for key in new if old.get(key) != new.get(key)]
    if different:
        raise UsageError(f"{folder}: holds a cache made with other parameters ({'; '.join(different)}); "
                         "choose another folder, or delete this one")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Only one process writes a cache at a time; the kernel drops the lock when that process dies."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is writing this cache; wait for it or stop it") from None
        yield


def _missing_shards(root: str, folder: Path, description: dict, paths: np.ndarray, sources: np.ndarray) -> list[int]:
    """Numbers of the shards to compute. UsageError where the shards that exist are of other images."""
    known = _known_sources(folder, len(paths))
    missing = []
    for number in range(description["shards"]):
        expected = _slice(description, number)
        file = folder / shards.shard_name(number)
        try:
            found = shards.read_column(file, "path")
            digests = shards.read_column(file, "digest")
        except shards.CacheError:
            missing.append(number)
            continue
        if not np.array_equal(found, paths[expected]):
            raise UsageError(f"{folder}: images were added to or removed from {root} since this cache was begun "
                             f"({file.name} lists others); make a new cache in another folder")
        changed = _changed(root, found, digests, known[expected], sources[expected])
        if changed:
            raise UsageError(f"{folder}: {len(changed)} images were replaced since their masks were made (first: "
                             f"{changed[0]}); delete {file} and run again to make its masks anew")
    return missing


def _known_sources(folder: Path, images: int) -> np.ndarray:
    """The images' byte lengths and mtimes when their masks were made; zeros where that is not known."""
    for name in ("sources.npy", "index.h5"):
        try:
            if name == "sources.npy":
                known = np.load(folder / name)
            else:
                with h5py.File(folder / name, "r", locking=False) as index:
                    known = index["sources"][...]
        except (OSError, KeyError, ValueError):
            continue
        if known.shape == (images, 2):
            return known
    return np.zeros((images, 2), "<i8")


def _changed(root: str, paths: np.ndarray, digests: np.ndarray, known: np.ndarray, sources: np.ndarray) -> list[str]:
    """The paths whose file differs from the one its mask was made of; contents are read only where length or mtime
    differ or are not known."""
    suspects = np.flatnonzero((known != sources).any(1))
    changed = []
    for i in suspects.tolist():
        try:
            same = np.array_equal(digest(read_bytes(root, paths[i])), digests[i])
        except ImageError:
            same = not digests[i].any()  # it could not be read then either
        if not same:
            changed.append(os.fsdecode(paths[i]))
    return changed


def _slice(description: dict, number: int) -> slice:
    return slice(number * description["shard_size"], (number + 1) * description["shard_size"])


def _blocks(root: str, recipe: Recipe, paths: np.ndarray, description: dict, todo: list[int]) -> Iterator[tuple]:
    for number in todo:
        expected = paths[_slice(description, number)]
        for first in range(0, len(expected), BLOCK):
            yield root, expected[first:first + BLOCK], recipe


def _compute(root: str, folder: Path, description: dict, recipe: Recipe, paths: np.ndarray, sources: np.ndarray,
             todo: list[int], workers: int) -> int:
    """Compute the shards `todo` in order, each written as soon as its last block is there; the number of images."""
    tasks = _blocks(root, recipe, paths, description, todo)
    if workers == 1:
        results = (compute_block(*task) for task in tasks)
    else:  # rows wait in the generator only as long as pre_dispatch lets them: memory is bounded
        results = Parallel(workers, return_as="generator", batch_size=1, pre_dispatch=2 * workers)(
            delayed(compute_block)(*task) for task in tasks)
    known = _known_sources(folder, len(paths))
    checksums = shards.read_checksums(folder)
    total = sum(len(paths[_slice(description, number)]) for number in todo)
    failed = 0
    with tqdm(total=total, desc="masks", unit="img", smoothing=0.05) as bar:
        for number in todo:
            expected = _slice(description, number)
            blocks = []
            while sum(len(b["status"]) for b in blocks) < len(paths[expected]):
                blocks.append(next(results))
                bar.update(len(blocks[-1]["status"]))
                failed += int((blocks[-1]["status"] != 0).sum())
                bar.set_postfix(failed=failed, refresh=False)
            name = shards.shard_name(number)
            checksums[name] = shards.write_shard(folder / name, shards.concatenate(blocks),
                                                 description["identity_hash"])
            shards.write_checksums(folder, checksums)
            known[expected] = sources[expected]
            np.save(folder / "sources.tmp.npy", known)
            os.replace(folder / "sources.tmp.npy", folder / "sources.npy")
    return total


def _finish(folder: Path, description: dict, sources: np.ndarray) -> dict[str, int]:
    """Write what is derived from the shards, and last of all that the cache is complete."""
    checksums = shards.read_checksums(folder)
    for number in range(description["shards"]):  # a kill may have come between a shard and its line
        name = shards.shard_name(number)
        if name not in checksums:
            checksums[name] = shards.sha256(folder / name)
    shards.write_checksums(folder, {name: checksums[name] for name in sorted(checksums)})
    index = build_index(folder, description["shards"], sources)
    write_index(folder, index)
    statuses = status_counts(index["status"])
    _write_description(folder, {**description, "complete": True, "statuses": statuses})
    for leftover in ("sources.npy", *(p.name for p in folder.glob("*.tmp"))):
        (folder / leftover).unlink(missing_ok=True)
    return statuses
