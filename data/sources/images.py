"""A run's images, from a folder, a tar, a tar of tars, a folder of class tars or a pack, and a list
of some of them: the same in every stage."""

from __future__ import annotations

import os
import stat

import numpy as np

from data.cli import UsageError
from data.sources.archives import class_tars, open_archive
from data.sources.base import Folder, Images, read_bytes
from data.sources.decode import MAX_PIXELS, ImageError, decode, image_size
from data.sources.listing import EXTENSIONS, list_folder
from data.sources.lists import read_list, require_listed
from data.sources.packed import is_pack, open_pack

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "ImageError",
    "Images",
    "class_names",
    "decode",
    "image_size",
    "list_images",
    "open_images",
    "read_bytes",
]


def open_images(root: str | os.PathLike, listed: str | None = None) -> Images:
    """All images under `root`, or those that the text file `listed` names.

    Args:
        root: a folder (any depth, links followed), a tar (plain, or of tars as ImageNet's) or a
            folder of class tars, read without unpacking, or a pack (`python -m data pack`).
        listed: file of relative paths, one a line. One that does not exist is noted on stderr, and
            gets the status "missing" where masks are made: the list says what the rows are.

    Raises:
        UsageError: no such folder, no image in it, a bad archive, a path that would leave the root,
            or a list of which no path exists.
    """
    root = os.fspath(root)
    try:
        mode = os.stat(root).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):  # a named pipe would hold the run for ever
        raise UsageError(f"{root}: no such folder of images")
    paths = None if listed is None else read_list(listed, root)
    if is_pack(root):
        images: Images = open_pack(root)
    else:
        images = _open_folder(root, paths) if os.path.isdir(root) else open_archive(root)
    if paths is None:
        return images
    images = images.choose(paths)
    require_listed(paths, images.stat().any(1), root, listed, "--list")
    return images


def _open_folder(root: str, paths: np.ndarray | None) -> Images:
    """A folder of images; where it holds tars and no image (no folder of the first of `paths`), the
    images in these."""
    tars = class_tars(root)
    if paths is not None:
        first = os.path.join(os.fsencode(root), paths[0].split(b"/")[0])
        return open_archive(root) if tars and not os.path.lexists(first) else Folder(root, paths)
    try:
        return Folder(root, list_folder(root))
    except UsageError:
        if not tars:
            raise
        return open_archive(root)


def list_images(root: str | os.PathLike) -> np.ndarray:
    """(N,) sorted relative paths of all images of a folder or tar; UsageError as open_images."""
    return open_images(root).paths


def class_names(paths: np.ndarray) -> list[str]:
    """The sorted class names of (N,) byte paths like b"class/....jpg": the first folder of each."""
    return sorted({os.fsdecode(p.split(b"/", 1)[0]) for p in paths.tolist() if b"/" in p})
