"""Caches of any number of rows that take no disk: shards are sparse files, only the index is
real."""

from pathlib import Path

import numpy as np

from data.cache.description import Description, identity_hash, write_description
from data.cache.index import write_index
from data.cache.shard import SCHEMA, shard_name
from data.columns import ALIGNMENT

SIDE = 128


def sparse_cache(folder: Path, images: int, shard_size: int) -> None:
    """A finished cache of `images` all-zero masks of 128x128 under ImageNet-like paths; its shards
    are holes."""
    folder.mkdir(parents=True)
    shards = -(-images // shard_size)
    identity = {"schema": SCHEMA, "estimator": "none", "version": 1, "parameters": {}}
    identity |= {"weights": None, "device": "cpu", "side": SIDE}
    description = Description(
        schema=SCHEMA,
        identity=identity,
        identity_hash=identity_hash(identity),
        shard_size=shard_size,
        images=images,
        shards=[shard_name(number, "0" * 64) for number in range(shards)],
        statuses={"ok": images},
    )
    length = ALIGNMENT + shard_size * SIDE * SIDE
    for name in description["shards"]:
        with open(folder / name, "wb") as file:
            file.truncate(length)
    rows = np.arange(images)
    classes = np.char.mod("n%08d/", rows // 1300).astype("S10")
    index = {
        "path": np.char.add(classes, np.char.mod("n%015d.JPEG", rows).astype("S21")),
        "status": np.zeros(images, np.uint8),
        "key": np.zeros((images, 2), "<i8"),
        "offset": np.full(shards, ALIGNMENT, "<i8"),
        "file_bytes": np.full(shards, length, "<i8"),
    }
    write_index(folder, index, description)
    write_description(folder, description)
