"""Where a network's file of weights is: given, in $DILO_WEIGHTS, or in torch hub's cache.

Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from data.cli import UsageError

SHOWN = 6  # names that a message lists


@dataclass(frozen=True)
class Source:
    """What people need to know to get a network's weights.

    Attributes:
        files: names that its file may have, the preferred one first.
        where: to get it, for people.
        checksums: published ones by file name, such as {"u2net.pth": "md5 09fb..."}.
        rembg: whether rembg keeps its files under these names.
    """

    files: tuple[str, ...]
    where: str
    checksums: dict[str, str] | None = None
    rembg: bool = False

    def __str__(self) -> str:
        checksums = list((self.checksums or {}).items())
        known = "; ".join(f"{name}: {value}" for name, value in checksums[:SHOWN])
        return f"{self.where}{f' ({known})' if known and len(checksums) <= SHOWN else ''}"

    @property
    def names(self) -> str:
        """The files' names, for people."""
        more = " or another of rembg's" if len(self.files) > SHOWN else ""
        return " or ".join(self.files[:SHOWN]) + more


def hub_folder() -> Path:
    """Where torch.hub keeps checkpoints; without importing torch."""
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    return Path(home).expanduser() / "hub" / "checkpoints"


def rembg_folder() -> Path:
    """Where rembg keeps its files."""
    home = os.environ.get("U2NET_HOME")
    return Path(home or os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net")).expanduser()


def find(name: str, source: Source, given: str | os.PathLike | None = None) -> Path:
    """The file of weights of network `name`.

    Args:
        given: file, or folder that has it under one of its names, or the name of one of rembg's
            files; None: $DILO_WEIGHTS (file or folder), then torch hub's cache folder, and
            rembg's for what that has.

    Raises:
        UsageError: one line: there is none, and where it can be had.
    """
    variable = os.environ.get("DILO_WEIGHTS")
    if given is not None:
        places = [Path(given)]
        if source.rembg:
            places.append(rembg_folder() / f"{os.fspath(given).removesuffix('.onnx')}.onnx")
    else:
        places = [Path(variable).expanduser()] if variable else []
        places += [hub_folder(), rembg_folder()] if source.rembg else [hub_folder()]
    for place in places:
        for path in (place, *(place / file for file in source.files)):
            if path.is_file():
                return path
    if given is not None:
        folder = Path(given).is_dir()
        what = f"holds no {source.names}" if folder else "no such file of weights"
        raise UsageError(f"{given}: {what} for {name}; get it from {source}")
    raise UsageError(
        f"no weights for {name}: put {source.names} into $DILO_WEIGHTS "
        f"({variable or 'not set'}) or {hub_folder()}, or give --weights FILE to the command "
        f"that has it (python -m preprocess); get it from {source}"
    )


def unpublished(path: Path, source: Source) -> str | None:
    """The checksum that a file of that name should have, where it has another."""
    published = (source.checksums or {}).get(path.name)
    if published is None:
        return None
    kind, digits = published.split()
    with open(path, "rb") as file:
        return None if hashlib.file_digest(file, kind).hexdigest() == digits else published
