"""Where a network's file of weights is: given, in $DILO_WEIGHTS, or in torch hub's cache.

Nothing is downloaded.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from data.cli import UsageError

SHOWN = 6  # names that a message lists


@dataclass(frozen=True)
class Source:
    """What people need to know to get a network's weights.

    Attributes:
        files: names that its file may have, the preferred one first.
        where: to get it, for people.
        checksums: published ones by file name, hex: MD5, or SHA-256 by their length.
        rembg: whether rembg keeps its files under these names.
    """

    files: tuple[str, ...]
    where: str
    checksums: dict[str, str] = field(default_factory=dict)
    rembg: bool = False

    @property
    def names(self) -> str:
        """The files' names, for people."""
        more = " or another of rembg's" if self.rembg else ""
        return " or ".join(self.files[:SHOWN]) + more

    @property
    def folders(self) -> list[Path]:
        """Where torch.hub keeps checkpoints, and rembg its files."""
        cache, data = (os.environ.get(name) for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"))
        torch = os.environ.get("TORCH_HOME") or f"{cache or '~/.cache'}/torch"
        folders = [f"{torch}/hub/checkpoints"]
        if self.rembg:
            folders.append(os.environ.get("U2NET_HOME") or f"{data or '~'}/.u2net")
        return [Path(folder).expanduser() for folder in folders]


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
    places = [Path(given or variable).expanduser()] if given or variable else []
    if given is None:
        places += source.folders
    elif source.rembg:
        places.append(source.folders[-1] / f"{os.fspath(given).removesuffix('.onnx')}.onnx")
    for place in places:
        for path in (place, *(place / file for file in source.files)):
            if path.is_file():
                return path
    if given is not None:
        what = f"holds no {source.names}" if os.path.isdir(given) else "no such file of weights"
        raise UsageError(f"{given}: {what} for {name}; get it from {source.where}")
    raise UsageError(
        f"no weights for {name}: put {source.names} into $DILO_WEIGHTS "
        f"({variable or 'not set'}) or {source.folders[0]}, or give --weights FILE to the command "
        f"that has it (python -m preprocess); get it from {source.where}"
    )


def unpublished(path: Path, source: Source) -> str | None:
    """The checksum that a file of that name should have, where it has another."""
    published = source.checksums.get(path.name)
    return None if published is None or published in checksums(path) else published


def checksums(path: Path) -> list[str]:
    """A file's MD5 and SHA-256, hex."""
    digests = []
    for kind in ("md5", "sha256"):
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, kind).hexdigest())
    return digests
