"""Checks of a whole cache, and the removal of what it no longer needs."""

from pathlib import Path

from data.cache.description import load_description
from data.cache.shard import NAME
from data.checksums import read_checksums, write_checksums
from data.io import lock, remove_temporary

LOCK = ".lock"  # held by whoever writes the cache
BUSY = (
    "another process is writing this cache; wait for it or stop it (or share the work from the "
    "start: --part I/N)"
)


def old_shards(folder: Path) -> list[Path]:
    """The shards in a cache's folder that are not part of the cache: a training may still read
    them."""
    current = set(load_description(folder)["shards"])
    shards = [file for file in folder.glob("shard-*.h5") if NAME.fullmatch(file.name)]
    return sorted(file for file in shards if file.name not in current)


def remove_old_shards(folder: Path) -> tuple[int, int]:
    """Remove old shards, and temporary files of dead processes.

    Returns:
        how many shards were removed, and how many bytes they took.

    Raises:
        UsageError: no cache, or another process is writing it.
    """
    load_description(folder)  # before a lock's file is put into a folder of something else
    with lock(folder / LOCK, f"{folder}: {BUSY}"):
        files = old_shards(folder)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        checksums = read_checksums(folder)
        kept = {name: line for name, line in checksums.items() if (folder / name).exists()}
        if kept != checksums:
            write_checksums(folder, kept)
        remove_temporary(folder)
    return len(files), size
