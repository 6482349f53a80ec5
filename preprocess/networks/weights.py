"""Where a network's file of weights is: given, in $DILO_WEIGHTS, or in torch hub's cache.

Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from data.cli import UsageError


@dataclass(frozen=True)
class Source:
    """What people need to know to get a network's weights.

    Attributes:
        files: names that its file may have, the preferred one first.
        where: to get it, for people.
        checksums: published ones by file name, such as {"u2net.pth": "md5 09fb..."}.
    """

    files: tuple[str, ...]
    where: str
    checksums: dict[str, str] | None = None

    def __str__(self) -> str:
        known = "; ".join(f"{name}: {value}" for name, value in (self.checksums or {}).items())
        return f"{self.where}{f' ({known})' if known else ''}"


def hub_folder() -> Path:
    """Where torch.hub keeps checkpoints; path without importing torch."""
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    return Path(home).expanduser() / "hub" / "checkpoints"


def find(name: str, source: Source, given: str | os.PathLike | None = None) -> Path:
    """The file of weights of network `name`.

    Args:
        given: file, or folder that has it under one of its names; None: $DILO_WEIGHTS (file or
            folder), then torch hub's cache folder.

    Raises:
        UsageError: one line: there is none, and where it can be had.
    """
    variable = os.environ.get("DILO_WEIGHTS")
    places = [Path(variable).expanduser()] if variable else []
    for place in [*places, hub_folder()] if given is None else [Path(given)]:
        for path in (place, *(place / file for file in source.files)):
            if path.is_file():
                return path
    if given is not None:
        folder = Path(given).is_dir()
        what = f"holds no {' or '.join(source.files)}" if folder else "no such file of weights"
        raise UsageError(f"{given}: {what} for {name}; get it from {source}")
    raise UsageError(
        f"no weights for {name}: put {' or '.join(source.files)} into $DILO_WEIGHTS "
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
