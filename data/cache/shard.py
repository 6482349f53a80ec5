"""One shard of a mask cache on disk: its schema, its bytes, and their check.

A shard is an HDF5 file whose datasets are contiguous, uncompressed, little-endian and 4096-byte
aligned, so that a reader can map them with np.memmap and never needs HDF5's locks or handles.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import h5py
import numpy as np

from data.cli import UsageError
from data.io import sha256, write_text

__all__ = ["STATUS", "CacheError", "check_shard", "sha256", "write_text"]

SCHEMA = 1
STATUS = {
    "ok": 0,  # usable
    "unreadable": 1,  # not an image, or its data is broken
    "empty": 2,  # a file of no bytes
    "too_large": 3,  # more pixels than the cap; refused by its header
    "missing": 4,  # listed, but the file could not be read
    "estimator": 5,  # the estimator failed on it
    "no_map": 6,  # estimator `files`: no map on disk for this image
    "truncated": 7,  # cut short or broken so far that the trainer would not use it either
    # the process that worked on it died (out of memory, a fault in a library), alone too
    "crashed": 8,
}
STATUS_NAMES = {code: name for name, code in STATUS.items()}
QUALITY = ("coverage", "border", "contrast", "entropy")
COLUMNS = ("mask", "path", "size", "digest", "status", *(f"quality/{name}" for name in QUALITY))
ALIGNMENT = 4096
REPAIR = "run the same `python -m preprocess` again with --repair, which makes it anew"


class CacheError(UsageError):
    """A cache or shard that cannot be used: the message names the file and says what to do."""


def empty_rows(count: int, side: int, paths: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`count` rows of zeros with a shard's dtypes: mask (N, S, S) uint8, path bytes, size (N, 2)
    int32 (height, width), digest (N, 16) uint8, status (N,) uint8, quality/* (N,) float32."""
    rows = {
        "mask": np.zeros((count, side, side), np.uint8),
        "path": np.zeros(count, "S1") if paths is None else own_width(paths),
        "size": np.zeros((count, 2), "<i4"),
        "digest": np.zeros((count, 16), np.uint8),
        "status": np.zeros(count, np.uint8),
    }
    return rows | {f"quality/{name}": np.zeros(count, "<f4") for name in QUALITY}


def own_width(paths: np.ndarray) -> np.ndarray:
    """(N,) bytes, copied, as wide as the longest of them: a shard's bytes do not depend on the
    other shards' paths."""
    return paths.astype(f"S{max(1, int(np.char.str_len(paths).max(initial=1)))}")


def identity_hash(identity: dict) -> str:
    """32 hex digits of BLAKE2b over the identity's canonical JSON."""
    return blake(json.dumps(identity, sort_keys=True).encode())


def shard_name(number: int, generation: int = 1) -> str:
    """The file of a shard; those that a later generation had to make anew carry its number."""
    return f"shard-{number:05d}.h5" if generation == 1 else f"shard-{number:05d}-{generation}.h5"


def shard_bytes(rows: dict[str, np.ndarray], identity: str) -> bytes:
    """A shard's file as bytes. Same rows, same bytes.

    It is laid out in memory, so that its SHA-256 is of what was meant to be written, and so that a
    full disk is an ordinary OSError.

    Args:
        rows: see empty_rows.
        identity: identity_hash of the cache.
    """
    with h5py.File(
        "shard",
        "w",
        driver="core",
        backing_store=False,
        alignment_threshold=1,
        alignment_interval=ALIGNMENT,
    ) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["identity"] = identity
        for column in COLUMNS:
            values = np.ascontiguousarray(rows[column])
            dataset = file.create_dataset(column, data=values, track_times=False)
            dataset.attrs["crc32"] = np.uint32(zlib.crc32(values.view(np.uint8).reshape(-1)))
        file.flush()
        return file.id.get_file_image()


def open_shard(path: Path) -> h5py.File:
    """The shard opened for reading. CacheError where it is missing, cut short, or no shard of this
    schema."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = "is missing" if not path.exists() else "is damaged or cut short"
        raise CacheError(f"{path} {reason}: {REPAIR}") from error
    if file.attrs.get("schema") != SCHEMA:
        file.close()
        raise CacheError(
            f"{path}: schema {file.attrs.get('schema')}, this version reads {SCHEMA}: make the cache anew"
        )
    return file


def read_column(path: Path, column: str) -> np.ndarray:
    with open_shard(path) as file:
        return file[column][...]


def check_shard(path: Path, identity: str) -> str | None:
    """None where every dataset of the shard has its CRC-32 and the identity fits, else what is
    wrong."""
    try:
        with open_shard(path) as file:
            if file.attrs.get("identity") != identity:
                return f"{path}: made with other parameters than this cache"
            for column in COLUMNS:
                values = np.ascontiguousarray(file[column][...])
                if zlib.crc32(values.view(np.uint8).reshape(-1)) != file[column].attrs["crc32"]:
                    return f"{path}: dataset {column} does not match its checksum"
    except CacheError as error:
        return str(error)
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
    ) as error:  # HDF5 raises many kinds on damaged headers
        return f"{path}: damaged ({error})"
    return None


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """All columns of a shard, see empty_rows. CacheError where it cannot be read."""
    try:
        with open_shard(path) as file:
            return {column: file[column][...] for column in COLUMNS}
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise (
            error if isinstance(error, CacheError) else CacheError(f"{path}: damaged ({error})")
        ) from error


def read_checksums(folder: Path) -> dict[str, str]:
    """{file name: SHA-256 hex} from CHECKSUMS (sha256sum's format); empty where there is none."""
    try:
        lines = (folder / "CHECKSUMS").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {
        name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)
    }


def write_checksums(folder: Path, checksums: dict[str, str]) -> None:
    write_text(
        folder / "CHECKSUMS", "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums))
    )


def problem(folder: Path, name: str, checksums: dict[str, str]) -> str | None:
    """What is wrong with a shard's file; None where its SHA-256 is the one in CHECKSUMS."""
    if not (folder / name).exists():
        return "missing"
    if name not in checksums:
        return "has no line in CHECKSUMS"
    try:
        found = sha256(folder / name)
    except OSError as error:  # a bad sector
        return f"cannot be read: {error.strerror}"
    return (
        None
        if found == checksums[name]
        else "does not match its checksum: damaged since it was written"
    )


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_receipts(folder: Path) -> dict[str, str]:
    """{shard file name: SHA-256 hex} of the shards that were written since the cache was last
    complete."""
    return {
        file.name.removesuffix(".sha256"): file.read_text().strip()
        for file in folder.glob("shard-*.sha256")
    }


def blake(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
