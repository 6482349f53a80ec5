"""Files that are checked against CHECKSUMS, which `sha256sum -c` reads too."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.io import is_own, sha256, write_text

NAMED = re.compile(r"-([0-9a-f]{16})\.h5$")  # a shard's name ends with the beginning of its digest


def read_checksums(folder: Path) -> dict[str, str]:
    """{file name: SHA-256 hex} from CHECKSUMS (sha256sum's format); empty where there is none."""
    file = folder / "CHECKSUMS"
    lines = file.read_text(errors="replace").splitlines() if is_own(file) else []
    pairs = [line.split("  ", 1) for line in lines if line[64:66] == "  "]
    return {name: digest for digest, name in pairs}


def write_checksums(folder: Path, checksums: dict[str, str]) -> None:
    lines = [f"{checksums[name]}  {name}\n" for name in sorted(checksums)]
    write_text(folder / "CHECKSUMS", "".join(lines))


def problems(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """(name, what is wrong with it) of each file, see `problem`."""
    checksums = read_checksums(folder)
    for name in names:
        yield name, problem(folder, name, checksums)


def problem(folder: Path, name: str, checksums: dict[str, str]) -> str | None:
    """What is wrong with a file; None where its SHA-256 is the one in CHECKSUMS, or without a line
    there the one that its name says."""
    named = NAMED.search(name)
    expected = checksums.get(name) or (named and named[1])
    if not (folder / name).exists():
        return "missing"
    if not is_own(folder / name):
        return "no file of this folder"
    if not expected:
        return "has no line in CHECKSUMS"
    try:
        digest = sha256(folder / name)
    except OSError as error:  # a bad sector
        return f"cannot be read: {error.strerror}"
    if digest.startswith(expected):
        return None
    return "does not match its checksum: damaged since it was written"
