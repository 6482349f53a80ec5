"""The commands about a mask cache: `python -m data info` and `verify`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from data.cache.journal import runs
from data.cache.reader import Cache, load_description
from data.cache.reader import verify as check_cache
from data.cache.shard import QUALITY, REPAIR, STATUS_NAMES
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
    parameters = ", ".join(f"{k}={v}" for k, v in identity["parameters"].items())
    print(
        f"{arguments.cache}: {len(cache)} masks of {cache.side}x{cache.side} in {cache.description['shards']} shards"
    )
    print(
        f"estimator {identity['estimator']} (version {identity['version']}{', ' if parameters else ''}"
        f"{parameters}), identity {cache.description['identity_hash']}"
    )
    if identity.get("weights"):
        print(f"weights   SHA-256 {identity['weights']}, computed on {identity['device']}")
    print(
        "status    " + ", ".join(f"{n} {name}" for name, n in cache.description["statuses"].items())
    )
    failed = cache.failed()
    for path, status in failed[: arguments.failed]:
        print(f"  {STATUS_NAMES[status]:<10} {path.encode(errors='backslashreplace').decode()}")
    if len(failed) > arguments.failed:
        print(f"  ... and {len(failed) - arguments.failed} more (--failed N shows more)")
    size = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
    print(f"bytes     {size / 1e6:.1f} MB in {arguments.cache}")
    taken = runs(cache.folder)
    if taken["computed"]:
        many = "s" * (taken["runs"] != 1)
        print(
            f"made in   {taken['seconds']:.1f} s by {taken['runs']} run{many}: {taken['computed']} images "
            f"computed, {taken['copied']} rows copied, {taken['per_core']:.1f} images/s a core"
        )
    usable = cache.status == 0
    if usable.any():
        print("quality of usable masks, percentiles:   5      25      50      75      95")
        for name in QUALITY:
            values = np.percentile(cache.column(f"quality/{name}")[usable], [5, 25, 50, 75, 95])
            print(f"  {name:<10}" + " " * 22 + "  ".join(f"{v:6.3f}" for v in values))
    return 0


@dataclass(frozen=True)
class Verify:
    """Check every shard of a mask cache or of a pack against CHECKSUMS; exit code 1 where any is
    damaged."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache or pack."""


def verify(arguments: Verify) -> int:
    packed = is_pack(arguments.cache)
    shards = (
        len(describe(arguments.cache)["file_bytes"])
        if packed
        else load_description(Path(arguments.cache))["shards"]
    )
    damaged = 0
    checks = verify_pack(arguments.cache) if packed else check_cache(arguments.cache)
    for name, problem in tqdm(checks, total=shards, desc="verify", unit="shard", leave=False):
        if problem:
            damaged += 1
            print(f"{os.path.join(arguments.cache, name)}: {problem}", file=sys.stderr)
    print(f"{shards - damaged} of {shards} shards are sound")
    if damaged:
        print(PACK_REPAIR if packed else REPAIR, file=sys.stderr)
    return 1 if damaged else 0
