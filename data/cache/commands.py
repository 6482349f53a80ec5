"""The commands about a mask cache: `python -m data info`, `verify` and `clean`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from data.cache.description import load_description
from data.cache.journal import runs
from data.cache.reader import Cache
from data.cache.shard import QUALITY, REPAIR, STATUS_NAMES
from data.cache.verify import check_shards, old_shards, remove_old_shards
from data.sources.packed import REPAIR as PACK_REPAIR
from data.sources.packed import describe, is_pack, verify_pack


@dataclass(frozen=True)
class Info:
    """What is in a cache: identity, counts by status, failed paths, what it took, percentiles of
    the quality."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache."""
    failed: int = 20
    """Failed paths shown at most."""


def info(arguments: Info) -> int:
    cache = Cache(arguments.cache)
    identity = cache.identity
    parameters = "".join(f", {key}={value}" for key, value in identity["parameters"].items())
    counts = ", ".join(f"{n} {name}" for name, n in cache.description["statuses"].items())
    size = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
    old = sum(file.stat().st_size for file in old_shards(cache.folder))
    print(
        f"{cache.folder}: {len(cache)} masks of {cache.side}x{cache.side} in "
        f"{len(cache.files)} shards"
    )
    print(
        f"estimator {identity['estimator']} (version {identity['version']}{parameters}), identity "
        f"{cache.description['identity_hash']}"
    )
    if identity.get("weights"):
        print(f"weights   SHA-256 {identity['weights']}, computed on {identity['device']}")
    print(f"status    {counts}")
    _print_failed(cache, arguments.failed)
    removable = f", {old / 1e6:.1f} of them in old shards (python -m data clean)" if old else ""
    print(f"bytes     {size / 1e6:.1f} MB in {cache.folder}{removable}")
    taken = runs(cache.folder)
    if taken["computed"]:
        many = "s" * (taken["runs"] != 1)
        print(
            f"made in   {taken['seconds']:.1f} s by {taken['runs']} run{many}: {taken['computed']} "
            f"images computed, {taken['copied']} rows copied, "
            f"{taken['per_core']:.1f} images/s a core"
        )
    usable = cache.status == 0
    if usable.any():
        print("quality of usable masks, percentiles:   5      25      50      75      95")
        for name in QUALITY:
            values = np.percentile(cache.column(f"quality/{name}")[usable], [5, 25, 50, 75, 95])
            print(f"  {name:<10}" + " " * 22 + "  ".join(f"{v:6.3f}" for v in values))
    return 0


def _print_failed(cache: Cache, limit: int) -> None:
    failed = cache.failed()
    for path, status in failed[:limit]:
        print(f"  {STATUS_NAMES[status]:<10} {path.encode(errors='backslashreplace').decode()}")
    if len(failed) > limit:
        print(f"  ... and {len(failed) - limit} more (--failed N shows more)")


@dataclass(frozen=True)
class Verify:
    """Check every shard of a mask cache or of a pack against CHECKSUMS; exit code 1 where any is
    damaged."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache or pack."""


def verify(arguments: Verify) -> int:
    folder = Path(arguments.cache)
    packed = is_pack(folder)
    shards = describe(folder)["file_bytes"] if packed else load_description(folder)["shards"]
    checks = verify_pack(folder) if packed else check_shards(folder)
    damaged = 0
    for name, problem in tqdm(checks, total=len(shards), desc="verify", unit="shard", leave=False):
        if problem:
            damaged += 1
            print(f"{folder / name}: {problem}", file=sys.stderr)
    print(f"{len(shards) - damaged} of {len(shards)} shards are sound")
    if damaged:
        print(PACK_REPAIR if packed else REPAIR, file=sys.stderr)
    return 1 if damaged else 0


@dataclass(frozen=True)
class Clean:
    """Remove the shards that a cache does not need since it was brought up to date: run it when no
    training reads them any more, and no part of the cache is still to be computed."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache."""


def clean(arguments: Clean) -> int:
    count, size = remove_old_shards(Path(arguments.cache))
    print(f"{count} old shards removed, {size / 1e6:.1f} MB")
    return 0
