"""A cache's cache.json: how its masks are made, and which shards it is made of."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypedDict

from data.cache.shard import NAME, SCHEMA, CacheError, shard_number
from data.io import LINKED, is_own, read_json, write_text

LARGEST_SIDE = 1 << 14


class DamagedDescription(CacheError):
    """A cache.json that does not match itself."""


class Description(TypedDict):
    """cache.json.

    Attributes:
        identity: how masks are made: schema, estimator, version, parameters, weights (SHA-256),
            device, side. `identity_hash` is of it.
        images, shard_size: numbers of rows, and of rows a shard.
        shards: names of the shards in order.
        statuses: number of images by name of status.
    """

    schema: int
    identity: dict[str, Any]
    identity_hash: str
    shard_size: int
    images: int
    shards: list[str]
    statuses: dict[str, int]


def identity_hash(identity: dict[str, Any]) -> str:
    """32 hex digits of BLAKE2b over the identity's canonical JSON."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load_description(folder: Path) -> Description:
    """The folder's cache.json.

    Raises:
        CacheError: the folder is no cache, or one of another version.
        DamagedDescription: its cache.json is damaged.
    """
    file = folder / "cache.json"
    try:
        description = read_json(file)
        schema = description["schema"]
        sound = schema != SCHEMA or _is_sound(description)
    except (FileNotFoundError, NotADirectoryError):
        raise CacheError(_absent(folder)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound and not is_own(file):
        raise DamagedDescription(f"{file}: {LINKED}")
    if not sound:
        raise DamagedDescription(
            f"{file}: damaged (it does not match its identity's hash, or its own numbers); delete "
            "it and run the same `python -m preprocess` again"
        )
    if schema != SCHEMA:
        raise CacheError(
            f"{file}: a cache of schema {schema}, this version reads {SCHEMA}: make it again with "
            "`python -m preprocess`, in another folder or after deleting this one"
        )
    return description


def _absent(folder: Path) -> str:
    if any(folder.glob("shard-*.h5")):
        return (
            f"{folder}: the cache is unfinished (no cache.json); run the same `python -m "
            "preprocess` again, it continues"
        )
    return (
        f"{folder}: no mask cache here (no cache.json); make one with `python -m preprocess IMAGES "
        f"{folder}`"
    )


def _is_sound(description: Description) -> bool:
    identity, names = description["identity"], description["shards"]
    numbers = (identity["side"], description["images"], description["shard_size"])
    return (
        description["identity_hash"] == identity_hash(identity)
        and all(type(number) is int and number >= 1 for number in numbers)
        and identity["side"] <= LARGEST_SIDE
        and {"estimator", "version", "device"} <= identity.keys()
        and isinstance(identity["parameters"], dict)
        and isinstance(description["statuses"], dict)
        and len(names) == -(-description["images"] // description["shard_size"])
        and all(NAME.fullmatch(name) for name in names)
        and [shard_number(name) for name in names] == list(range(len(names)))
    )


def write_description(folder: Path, description: Description) -> None:
    write_text(folder / "cache.json", json.dumps(description, indent=2) + "\n")
