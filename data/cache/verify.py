"""What a cache's folder holds beside the cache: its lock, and shards that were replaced."""

from pathlib import Path

from data.cache.description import load_description
from data.cache.shard import NAME

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
