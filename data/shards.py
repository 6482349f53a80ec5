"""One shard of a mask cache on disk: its schema, the atomic writer, and the check of its bytes.

A shard is an HDF5 file whose datasets are contiguous, uncompressed, little-endian and 4096-byte aligned, so that a
reader can map them with np.memmap and never needs HDF5's locks or handles.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path

import h5py
import numpy as np

from data.cli import UsageError

SCHEMA = 1
STATUS = {
    "ok": 0,  # usable
    "unreadable": 1,  # not an image, or its data is broken
    "empty": 2,  # a file of no bytes
    "too_large": 3,  # more pixels than the cap; refused by its header
    "missing": 4,  # listed, but the file could not be read
    "estimator": 5,  # the estimator failed on it
    "no_map": 6,  # estimator `files`: no map on disk for this image
}
STATUS_NAMES = {code: name for name, code in STATUS.items()}
QUALITY = ("coverage", "border", "contrast", "entropy")
COLUMNS = ("mask", "path", "size", "digest", "status", *(f"quality/{name}" for name in QUALITY))
ALIGNMENT = 4096


class CacheError(UsageError):
    """A cache or shard that cannot be used: the message names the file and says what to do."""


def empty_rows(count: int, side: int, paths: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """`count` rows of zeros with a shard's dtypes: mask (N, S, S) uint8, path bytes, size (N, 2) int32 (height,
    width), digest (N, 16) uint8, status (N,) uint8, quality/* (N,) float32."""
    rows = {
        "mask": np.zeros((count, side, side), np.uint8),
        "path": np.zeros(count, "S1") if paths is None else paths.copy(),
        "size": np.zeros((count, 2), "<i4"),
        "digest": np.zeros((count, 16), np.uint8),
        "status": np.zeros(count, np.uint8),
    }
    return rows | {f"quality/{name}": np.zeros(count, "<f4") for name in QUALITY}


def concatenate(blocks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows of several blocks as one; the path column takes the longest path's length."""
    return {column: np.concatenate([block[column] for block in blocks]) for column in COLUMNS}


def identity_hash(identity: dict) -> str:
    """32 hex digits of BLAKE2b over the identity's canonical JSON."""
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.h5"


def write_shard(path: Path, rows: dict[str, np.ndarray], identity: str) -> str:
    """Write rows to `path` atomically and return the file's SHA-256 (hex).

    Same rows, same bytes. A kill at any moment leaves no file under the final name, only `*.tmp`.

    Args:
        rows: see empty_rows.
        identity: identity_hash of the cache.
    """
    temporary = path.with_suffix(".tmp")
    with h5py.File(temporary, "w", alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["identity"] = identity
        for column in COLUMNS:
            values = np.ascontiguousarray(rows[column])
            dataset = file.create_dataset(column, data=values, track_times=False)
            dataset.attrs["crc32"] = np.uint32(zlib.crc32(values.view(np.uint8).reshape(-1)))
    digest = sha256(temporary)
    replace(temporary, path)
    return digest


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its name so that a crash leaves the old file or the new one, never half."""
    descriptor = os.open(temporary, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    replace(temporary, path)


def open_shard(path: Path) -> h5py.File:
    """The shard opened for reading. CacheError where it is missing, cut short, or no shard of this schema."""
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = "is missing" if not path.exists() else "is damaged or cut short"
        raise CacheError(f"{path} {reason}: delete it if it exists and run the same `python -m preprocess` again, "
                         "which makes it anew") from error
    if file.attrs.get("schema") != SCHEMA:
        file.close()
        raise CacheError(f"{path}: schema {file.attrs.get('schema')}, this version reads {SCHEMA}: make the cache anew")
    return file


def read_column(path: Path, column: str) -> np.ndarray:
    with open_shard(path) as file:
        return file[column][...]


def check_shard(path: Path, identity: str) -> str | None:
    """None where every dataset of the shard has its CRC-32 and the identity fits, else what is wrong."""
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
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # HDF5 raises many kinds on damaged headers
        return f"{path}: damaged ({error})"
    return None


def read_checksums(folder: Path) -> dict[str, str]:
    """{file name: SHA-256 hex} from CHECKSUMS (sha256sum's format); empty where there is none."""
    try:
        lines = (folder / "CHECKSUMS").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}


def write_checksums(folder: Path, checksums: dict[str, str]) -> None:
    write_text(folder / "CHECKSUMS", "".join(f"{checksums[name]}  {name}\n" for name in sorted(checksums)))
