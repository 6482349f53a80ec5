"""Text files of relative paths, one a line, as people and other tools write them."""

import codecs
import os
import re

import numpy as np

from data.cli import UsageError, note
from data.sources.listing import ENDINGS, Paths, inside

# "path label" of Caffe and mmselfsup; labels are numbers or one word
LABELLED = re.compile(
    rb"(.+(?:%s))[ \t,;]+(?:[-+\d.,; \t]+|\w+)" % b"|".join(map(re.escape, ENDINGS)), re.IGNORECASE
)
FIRST = 5  # missing paths that are named


def read_list(file: str | os.PathLike, root: str = "", option: str = "--list") -> np.ndarray:
    """(N,) sorted relative paths from a text file, one a line, each once.

    Understood besides: labels after a path, CR LF, a byte order mark, blanks at the end, './', and
    absolute paths below `root`.

    Raises:
        UsageError: no such file, no path in it, or a path that would leave the root (it names the
            line).
    """
    gathered = Paths()
    prefix = os.path.abspath(os.fsencode(root)) + b"/" if root else b"\0"
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                path = _path(line, number).removeprefix(prefix)
                if path and not inside(path):
                    raise UsageError(
                        f"{file}, line {number}: {os.fsdecode(path[:200])!r} is not a path below "
                        "the image root; write relative paths without '..', in UTF-8"
                    )
                if path:
                    gathered.add(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from error
    if not gathered.paths:
        raise UsageError(f"{option} {file}: names no image")
    return np.unique(gathered.paths)


def _path(line: bytes, number: int) -> bytes:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    line = line.rstrip().removeprefix(b"./")
    labelled = None if line.lower().endswith(ENDINGS) else LABELLED.fullmatch(line)
    return labelled[1] if labelled else line


def require_listed(
    paths: np.ndarray, present: np.ndarray, root: str, file: str | os.PathLike, option: str
) -> None:
    """Say which paths of a list are not among the images of `root`.

    Args:
        paths: (N,) bytes, of the list.
        present: (N,) bool.

    Raises:
        UsageError: none of them is.
    """
    absent = paths[~present]
    if not len(absent):
        return
    names = ", ".join(os.fsdecode(path) for path in absent[:FIRST].tolist())
    message = (
        f"{option} {file}: {len(absent)} of its {len(paths)} paths are not among the images of "
        f"{root} (first: {names}); {_reason(absent[0], root)}"
    )
    if len(absent) == len(paths):
        raise UsageError(message)
    note(message)


def _reason(path: bytes, root: str) -> str:
    own = os.path.basename(os.path.abspath(os.fsencode(root)))
    if path.startswith(own + b"/"):
        return f"they begin with the folder's own name: give the folder above {root}"
    if b"\\" in path:
        return "they are written with backslashes: write '/'"
    if any(path.lower().count(ending + b" ") for ending in ENDINGS):
        return "they hold several paths a line: write one"
    if not path.lower().endswith(ENDINGS):
        return "they do not end as an image's name does: write one whole path a line"
    if b"/" not in path:
        return "they have no folder: write them as `python -m data list` does"
    return "was the list written for another folder, or were they moved?"
