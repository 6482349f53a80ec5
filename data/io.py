"""Files that appear whole or not at all, locks between processes, and memory maps.

A file is written under a temporary name, brought to the disk, and given its own name. A lock
belongs to a process and is dropped by the kernel when that dies.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import hashlib
import json
import mmap
import os
import socket
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.cli import UsageError, note

# what file systems say that have no locks, or cannot bring a file to the disk
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# what file systems and tools put beside data, besides hidden names
SYSTEM = frozenset(
    b"@eaDir @Recycle #recycle #snapshot ~snapshot $RECYCLE.BIN __MACOSX lost+found".split()
)
STAT_THREADS, STAT_BLOCK = 32, 64  # files of a thread at a time
LARGEST_JSON = 1 << 26  # bytes that are read
LINKED = "a link out of its folder is not read; copy the files themselves (`cp -rL`)"


@contextmanager
def atomic(path: str | os.PathLike, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` at the end of the block.

    A crash leaves the old file or the new one, never half. Where the block fails (no space,
    read-only, a signal), nothing stays under the temporary name, which ends in .tmp.

        with atomic("weights.pt") as temporary:
            torch.save(state, temporary)

    Args:
        durable: bring it to the disk before it gets its name. Thousands of small pictures that the
            same command would write again take five times as long with it.

    Raises:
        OSError: with the file's own name in `filename`.
    """
    path = Path(path)
    unique = f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    temporary = path.with_name(unique)
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary), temporary):
            error.filename = str(path)
            error.filename2 = None
        raise


def write_bytes(path: str | os.PathLike, content: bytes, *, durable: bool = True) -> None:
    """Write a file atomically."""
    with atomic(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically, UTF-8; paths that are not UTF-8 keep their bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def sync(path: str | os.PathLike) -> None:
    """Bring a file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def remove_temporary(folder: str | os.PathLike) -> None:
    """Remove what dead processes left under temporary names in a folder that the caller has
    locked and does not write yet. What others of this machine write there, as an evaluation beside
    a training does, stays."""
    for file in Path(folder).glob("*.tmp"):
        owner, _, process = file.stem.rpartition(".")
        here = owner.endswith(f".{socket.gethostname()}")
        alive = process != str(os.getpid()) and os.path.exists(f"/proc/{process}")
        if not here or not alive:  # a container gives the same few numbers again
            with contextlib.suppress(OSError):
                file.unlink()


def stat_files(prefix: bytes, names: Sequence[bytes]) -> np.ndarray:
    """(N, 2) int64: byte length and mtime in nanoseconds of each file, `prefix` + name; zeros where
    it is not there. In threads: a network disk takes its time for each."""

    def stat(block: Sequence[bytes]) -> np.ndarray:
        rows = np.zeros((len(block), 2), "<i8")
        for row, name in zip(rows, block, strict=True):
            with contextlib.suppress(OSError):
                status = os.stat(prefix + name)
                row[:] = status.st_size, status.st_mtime_ns
        return rows

    blocks = [names[i : i + STAT_BLOCK] for i in range(0, len(names), STAT_BLOCK)]
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return np.concatenate([np.zeros((0, 2), "<i8"), *pool.map(stat, blocks)])


class Busy(UsageError):
    """Another process holds a lock."""


@contextmanager
def lock(
    path: str | os.PathLike,
    busy: str = "",
    *,
    shared: bool = False,
    wait: bool = False,
    remove: bool = False,
    may_read: bool = False,
) -> Iterator[None]:
    """Hold a lock on the file `path`, made where it is missing, as long as the block runs.

    Args:
        busy: message of the error, or with `wait` of a note, where another process holds the lock.
        shared: several processes may hold it, as long as none holds it alone.
        wait: wait for the lock.
        remove: remove the file at the end.
        may_read: in a folder that cannot be written the block runs without a lock, since it may
            find nothing to write.

    On a file system without locks a note says so, and the block runs.

    Raises:
        Busy: another process holds the lock, and `wait` is false.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if may_read and not os.access(os.path.dirname(path) or ".", os.W_OK):
        yield
        return
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(descriptor)
                raise Busy(busy or f"{path}: another process holds this lock") from None
            if busy:
                note(busy)
            fcntl.flock(descriptor, kind)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                raise
            _note_without_locks(os.path.dirname(path))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)  # whoever held it has removed it since it was opened
    try:
        yield
    finally:
        if remove:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(descriptor)


@functools.cache  # one note, also of several locks
def _note_without_locks(folder: str) -> None:
    note(f"{folder}: this file system has no locks; start one process at a time")


def is_system(name: str | bytes) -> bool:
    """True for a file's or folder's own name that a system or a tool made, which is no data:
    .ipynb_checkpoints, ._x.jpg, .DS_Store, @eaDir, lost+found."""
    name = os.fsencode(name)
    return name.startswith(b".") or name in SYSTEM


def entries(folder: str | os.PathLike) -> list[Path]:
    """What is in a folder, sorted, without what systems put there; the path itself where it is a
    file, nothing where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        return [folder] if folder.exists() else []
    return sorted(file for file in folder.iterdir() if not is_system(file.name))


def is_own(path: str | os.PathLike) -> bool:
    """Whether a path is a file that lies in its folder: no link that leads out of it, no pipe."""
    path = Path(path)
    inside = not path.is_symlink() or path.resolve().parent == path.parent.resolve()
    return inside and path.is_file()


def read_json(path: str | os.PathLike, largest: int = LARGEST_JSON) -> Any:
    """What a JSON file that may come from elsewhere holds.

    Raises:
        ValueError: not JSON, longer than `largest` bytes, or a link that leads out of its folder.
        FileNotFoundError, NotADirectoryError: there is none.
    """
    with open(path, "rb", opener=without_waiting) as file:
        if not is_own(path):
            raise ValueError(f"{path}: no file of this folder")
        try:
            return json.loads(file.read(largest))
        except RecursionError as error:
            raise ValueError("nested too deep") from error


def without_waiting(path: str | bytes, flags: int) -> int:
    """For `open`: a named pipe would hold a run for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_bytes(path: str | os.PathLike, offset: int, count: int) -> np.ndarray:
    """`count` bytes of a file from `offset` on, mapped: a read-only (count,) uint8 array.

    The map goes when the last array on it does. Python's own mmap keeps a duplicate of the
    descriptor as long as the map lives; this one needs none, so that thousands of shards work at
    `ulimit -n 256`.

    Raises:
        OSError: no such file, or it cannot be mapped.
        ValueError: the file ends before (reading a map past the end of its file would be a SIGBUS).
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    region = [ctypes.c_void_p, ctypes.c_size_t]
    library.mmap.argtypes = [*region, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = region
    length = offset + count
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < length:
            raise ValueError(f"{path}: shorter than {length} bytes")
        place = library.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))
    finally:
        os.close(descriptor)
    buffer = (ctypes.c_uint8 * length).from_address(place)
    weakref.finalize(buffer, library.munmap, place, length).atexit = False
    values = np.frombuffer(buffer, np.uint8, count, offset)
    values.flags.writeable = False
    return values
