"""Memory maps of files that hold no file descriptor: thousands of shards work at `ulimit -n 256`.

Python's own mmap keeps a duplicate of the descriptor as long as the map lives; the kernel needs
none.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np


def map_bytes(path: str | os.PathLike, offset: int, count: int) -> np.ndarray:
    """`count` bytes of a file from `offset` on, mapped: a read-only (count,) uint8 array.

    The map goes when the last array on it does.

    Raises:
        OSError: no such file, or it cannot be mapped.
        ValueError: the file ends before (reading a map past the end of its file would be a SIGBUS).
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    before = offset % mmap.ALLOCATIONGRANULARITY
    length = before + count
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size < offset + count:
            raise ValueError(f"{path}: shorter than {offset + count} bytes")
        place = library.mmap(
            None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset - before
        )
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))
    finally:
        os.close(descriptor)
    buffer = (ctypes.c_uint8 * length).from_address(place)
    weakref.finalize(buffer, library.munmap, place, length).atexit = False
    values = np.frombuffer(buffer, np.uint8, count, before)
    values.flags.writeable = False
    return values
