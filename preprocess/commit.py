"""Everything that a run writes into a cache's folder, and the one moment when a generation becomes
the cache.

A shard appears whole under its name or not at all, after a receipt (its checksum, and its sources'
lengths and mtimes) under `.progress`. The replacement of cache.json is the commit: before it the
old generation is the cache, after it the new one, and files of an old generation go when no reader
has it open any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.cache import shard as shards
from data.cache.index import PROGRESS, build_index, shard_files, write_index
from data.cache.reader import failures, load_description, old_description, status_counts
from data.cache.shard import STATUS_NAMES
from data.cli import UsageError
from data.io import sync, write_bytes, write_text
from preprocess.plan import NAME, recorded_checksums

FAILURES = "failures.tsv"


@contextmanager
def lock(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """One process writes a cache at a time, or several parts of it; the kernel drops a lock when
    its process dies.

    Raises:
        UsageError: another process holds it.
    """
    with contextlib.ExitStack() as held:
        _hold(
            held,
            folder / ".lock",
            fcntl.LOCK_EX if part is None else fcntl.LOCK_SH,
            f"{folder}: another process is writing this cache; wait for it or stop it (or share the work from the "
            "start: --part I/N)",
        )
        if part is not None:
            _hold(
                held,
                folder / f".lock-part-{part[0]}-of-{part[1]}",
                fcntl.LOCK_EX,
                f"{folder}: another process is computing part {part[0]}/{part[1]}; wait for it or stop it",
            )
        yield


def _hold(held: contextlib.ExitStack, path: Path, kind: int, busy: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(busy) from None
    # a file system without locks: writes are atomic and the same bytes, two would only be slower
    except OSError:
        return


@contextmanager
def finishing(folder: Path) -> Iterator[None]:
    """Of several parts that end together, one after the other looks whether all is there."""
    with open(folder / ".lock-finish", "a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_shard(
    folder: Path, name: str, rows: dict[str, np.ndarray], identity_hash: str, sources: np.ndarray
) -> int:
    """Write a shard and its receipt, each whole or not at all; the shard's length in bytes."""
    content = shards.shard_bytes(rows, identity_hash)
    receipt = io.BytesIO()
    np.save(receipt, sources)
    (folder / PROGRESS).mkdir(exist_ok=True)
    write_bytes(folder / PROGRESS / f"{name}.npy", receipt.getvalue())
    write_text(folder / PROGRESS / f"{name}.sha256", shards.sha256_of(content) + "\n")
    write_bytes(folder / name, content)
    return len(content)


def noted_sources(folder: Path, name: str) -> np.ndarray | None:
    """The sources in a shard's receipt, (n, 2) int64; None where there is none."""
    try:
        return np.load(folder / PROGRESS / f"{name}.npy")
    except (OSError, ValueError):
        return None


def write_description(folder: Path, description: dict) -> None:
    """cache.json, unless it says so already: open readers hold a lock on the file that they
    read."""
    text = json.dumps(description, indent=2) + "\n"
    file = folder / "cache.json"
    if not file.exists() or file.read_text(errors="replace") != text:
        write_text(file, text)


def commit(
    folder: Path, description: dict, files: list[str], generation: int, sources: np.ndarray
) -> dict[str, int]:
    """Make the shards `files` the cache: checksums, cache.json, index, list of failures; images by
    status name.

    Raises:
        CacheError: a shard without a checksum on record does not match its own.
    """
    known = recorded_checksums(folder)
    for name in files:
        if name not in known:  # CHECKSUMS was lost
            wrong = shards.check_shard(folder / name, description["identity_hash"])
            if wrong:
                raise shards.CacheError(f"{wrong}: {shards.REPAIR}")
            known[name] = shards.sha256(folder / name)
    # the old generation's lines stay until its files go: `sha256sum -c CHECKSUMS` is right at every
    # moment
    shards.write_checksums(
        folder, {name: line for name, line in known.items() if (folder / name).exists()}
    )
    index = build_index(folder, files, sources)
    statuses = status_counts(index["status"])
    finished = {
        **description,
        "shards": len(files),
        "generation": generation,
        "complete": True,
        "statuses": statuses,
    }
    if files != [shards.shard_name(i) for i in range(len(files))]:
        finished["files"] = files
    _keep_old(folder, generation)
    write_description(folder, finished)
    write_index(folder, index, files)
    write_failures(folder, index)
    clean(folder)
    return statuses


def _keep_old(folder: Path, generation: int) -> None:
    """Give the description that is about to be replaced a second name, for the readers that have it
    open."""
    try:
        before = load_description(folder)
    except shards.CacheError:
        return
    if before["complete"] and before.get("generation", 1) != generation:
        with contextlib.suppress(FileExistsError):
            os.link(folder / "cache.json", old_description(folder, before.get("generation", 1)))
        sync(folder)


def write_failures(folder: Path, index: dict[str, np.ndarray]) -> None:
    """failures.tsv: reason, tab, path of every image without a mask; no file where there is
    none."""
    failed = failures(index["path"], index["status"])
    if failed:
        lines = [
            f"{STATUS_NAMES[status]}\t{_one_line(path)}\n".encode(errors="surrogateescape")
            for path, status in failed
        ]
        write_bytes(folder / FAILURES, b"".join(lines))
    else:
        (folder / FAILURES).unlink(missing_ok=True)


def _one_line(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def has_leftovers(folder: Path) -> bool:
    return (folder / PROGRESS).exists() or any(folder.glob("cache.*.json"))


def clean(folder: Path) -> None:
    """Remove what neither the cache nor an open reader needs: old generations, receipts, temporary
    files."""
    keep = set(shard_files(load_description(folder)))
    for file in folder.glob("cache.*.json"):
        with open(file) as old:
            try:
                fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # somebody reads it, or nobody can tell
                keep |= set(shard_files(json.load(old)))
                continue
        file.unlink()
    for file in folder.glob("shard-*.h5"):
        if file.name not in keep and NAME.fullmatch(file.name):
            file.unlink()
    checksums = shards.read_checksums(folder)
    if set(checksums) - keep:
        shards.write_checksums(
            folder, {name: line for name, line in checksums.items() if name in keep}
        )
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)
    for file in folder.glob("*.tmp"):
        file.unlink(missing_ok=True)
