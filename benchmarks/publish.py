"""The end of every benchmark: its table on the screen and in a named block of a Markdown page, its
numbers in a JSON."""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.io import write_text

PAGE = "docs/benchmarks.md"
MEASURED = ("what", "measured", "target")  # heads of a table of single numbers


def about() -> dict[str, str]:
    """What a reader of the numbers needs to know: {"date", "machine", "command"}."""
    name = Path(sys.argv[0]).stem
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
    }


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """A table.

    Args:
        numbers: columns at the end that are aligned to the right.
    """
    rules = ["---"] * (len(heads) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, rules, *rows))


def publish(result: dict, text: str, file: str | Path, page: str | Path, block: str) -> None:
    """Write `result`, with what `about` says, to the JSON `file` and `text` into a page, and print
    `text`.

    Args:
        block: name of the block of `page`, see `fill`; it may be missing.
    """
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(about() | result, indent=2) + "\n")
        written = fill(page, block, text)
    finally:  # minutes of work: they are shown also where the disk is full
        print(text)
    print(f"written: {file}" + (f", {page}" if written else ""))


def fill(file: str | Path, block: str, text: str) -> bool:
    """Replace what lies between `<!-- BLOCK:begin -->` and `<!-- BLOCK:end -->` of a Markdown page.

    Returns:
        False, with the page untouched, where the page or the block is missing.
    """
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    content = Path(file).read_text("utf-8") if Path(file).exists() else ""
    head, has_begin, rest = content.partition(begin)
    _, has_end, tail = rest.partition(end)
    if not (has_begin and has_end):
        return False
    write_text(file, f"{head}{begin}\n{text.strip()}\n{end}{tail}")
    return True
