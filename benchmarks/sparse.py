"""Caches of any number of rows that take no disk: shards are sparse files, only the index is
real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data.cache.index import write_index
from data.cache.shard import SCHEMA, identity_hash, shard_name, write_checksums
from data.io import write_text

SIDE = 128


def sparse_cache(folder: Path, images: int, shard_size: int) -> None:
    """A finished cache of `images` all-zero masks of 128x128 under ImageNet-like paths; its shards
    are holes."""
    folder.mkdir(parents=True)
    shards = -(-images // shard_size)
    identity = {
        "schema": SCHEMA,
        "estimator": "none",
        "version": 1,
        "parameters": {},
        "weights": None,
        "device": "cpu",
        "side": SIDE,
    }
    rows = np.arange(images)
    paths = np.char.mod("n%08d/", rows // 1300).astype("S10")
    paths = np.char.add(paths, np.char.mod("n%015d.JPEG", rows).astype("S21"))
    paths.sort()
    length = 4096 + shard_size * SIDE * SIDE
    for number in range(shards):
        with open(folder / shard_name(number), "wb") as file:
            file.truncate(length)
    write_checksums(folder, {shard_name(i): "0" * 64 for i in range(shards)})
    write_index(
        folder,
        {
            "path": paths,
            "status": np.zeros(images, np.uint8),
            "offset": np.full(shards, 4096, "<i8"),
            "file_bytes": np.full(shards, length, "<i8"),
            "sources": np.zeros((images, 2), "<i8"),
        },
        [shard_name(i) for i in range(shards)],
    )
    write_text(
        folder / "cache.json",
        json.dumps(
            {
                "schema": SCHEMA,
                "identity": identity,
                "identity_hash": identity_hash(identity),
                "images_root": "sparse",
                "shard_size": shard_size,
                "images": images,
                "shards": shards,
                "generation": 1,
                "complete": True,
                "statuses": {"ok": images},
            }
        ),
    )
