"""Everything that a run writes into a cache's folder.

A shard appears whole under its name or not at all, and its name never gets other bytes. The
replacement of cache.json is the commit: before it the old shards are the cache, after it the new
ones. Old shards stay, since a training may have them mapped.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.cache.description import Description, write_description
from data.cache.index import Index, build_index, write_index
from data.cache.reader import failures, status_counts
from data.cache.shard import (
    REPAIR,
    STATUS_NAMES,
    CacheError,
    Rows,
    shard_bytes,
    shard_name,
    shard_number,
)
from data.cache.verify import BUSY, LOCK
from data.checksums import problem, read_checksums, write_checksums
from data.io import lock, sha256, write_bytes

FAILURES = "failures.tsv"


class Written(NamedTuple):
    """A shard's file name, the bytes written (0 where it was there already), and its SHA-256 in
    hex."""

    name: str
    size: int
    digest: str


@contextmanager
def writing(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """One process writes a cache at a time, or several parts of it.

    Raises:
        UsageError: another process does.
    """
    with contextlib.ExitStack() as held:
        of_all = lock(folder / LOCK, f"{folder}: {BUSY}", shared=part is not None, may_read=True)
        held.enter_context(of_all)
        if part is not None:
            busy = f"{folder}: another process is computing part {part[0]}/{part[1]}; wait for it"
            file = folder / f".lock-part-{part[0]}-of-{part[1]}"
            held.enter_context(lock(file, f"{busy} or stop it", may_read=True))
        yield


def write_shard(folder: Path, number: int, rows: Rows, identity: str) -> Written:
    """Write a shard, whole or not at all."""
    content = shard_bytes(rows, identity)
    digest = hashlib.sha256(content).hexdigest()
    name = shard_name(number, digest)
    if (folder / name).exists() and problem(folder, name, {}) is None:
        return Written(name, 0, digest)
    write_bytes(folder / name, content)
    return Written(name, len(content), digest)


def commit(
    folder: Path, description: Description, files: list[str], digests: dict[str, str]
) -> dict[str, int]:
    """Make the shards `files` the cache; its images by name of status.

    The index comes after cache.json: where it is not of these shards, the next run commits again.

    Args:
        digests: {file name: SHA-256 hex} as far as known; the other shards are read.

    Raises:
        CacheError: a shard is not what its name says.
    """
    _write_checksums(folder, files, digests)
    description = {**description, "shards": files}
    index = build_index(folder, description)
    description["statuses"] = status_counts(index["status"])
    write_failures(folder, index)
    write_description(folder, description)
    write_index(folder, index, description)
    return description["statuses"]


def _write_checksums(folder: Path, files: list[str], digests: dict[str, str]) -> None:
    """CHECKSUMS of `files`, and of old shards that are still there."""
    checksums = read_checksums(folder) | digests
    for name in tqdm(files, desc="checking shards", unit="shard", delay=2, leave=False):
        if name in checksums:
            continue
        checksums[name] = sha256(folder / name)
        if name != shard_name(shard_number(name), checksums[name]):
            raise CacheError(f"{folder / name}: damaged since it was written; {REPAIR}")
    present = {name: line for name, line in checksums.items() if (folder / name).exists()}
    write_checksums(folder, present)


def write_failures(folder: Path, index: Index) -> None:
    """failures.tsv: reason, tab, path of every image without a mask; no file where there is
    none."""
    lines = [
        f"{STATUS_NAMES[status]}\t{_one_line(path)}\n".encode(errors="surrogateescape")
        for path, status in failures(index["path"], index["status"])
    ]
    if lines:
        write_bytes(folder / FAILURES, b"".join(lines))
    else:
        (folder / FAILURES).unlink(missing_ok=True)


def _one_line(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
