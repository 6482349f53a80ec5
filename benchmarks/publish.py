"""The end of every benchmark: its table on the screen and in a named block of a Markdown page, its
numbers in a JSON."""

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from data.cli import describe, note
from data.io import write_text

PAGE = "docs/benchmarks.md"
MEASURED = "what | measured | target"  # heads of a table of single numbers


def about() -> dict[str, str]:
    """What a reader of the numbers needs to know: {"commit" with + where files were changed since,
    "date", "machine", "command"}."""
    git = ("git", "-C", os.path.dirname(__file__))
    wanted = (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
    commit, changed = (
        subprocess.run([*git, *arguments], capture_output=True, text=True).stdout.strip()
        for arguments in wanted
    )
    processors = Path("/proc/cpuinfo")
    text = processors.read_text() if processors.exists() else ""
    names = re.findall(r"^model name\s*: (.*)", text, re.M) or [platform.machine()]
    module = Path(sys.argv[0]).stem
    return {
        "commit": (commit or "unknown") + ("+" if changed else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} x {names[0]}",
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
    }


def markdown(heads: str, rows: Iterable[str], numbers: int = 0) -> str:
    """A table from lines of cells, "a | b | c".

    Args:
        numbers: columns at the end that are aligned to the right.
    """
    words = heads.count(" | ") + 1 - numbers
    rule = " | ".join(["---"] * words + ["--:"] * numbers)
    return "\n".join(f"| {row} |" for row in (heads, rule, *rows))


def publish(result: dict, text: str, file: str | Path, page: str | Path | None, block: str) -> None:
    """Write `result`, with what `about` says, to the JSON `file` and `text` into a page, and print
    `text`.

    Args:
        page: None for numbers that no page should show.
        block: name of the block of `page`, see `fill`; it may be missing.
    """
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(about() | result, indent=2) + "\n")
        written = page is not None and fill(page, block, text)
    finally:  # minutes of work: they are shown also where the disk is full
        print(text)
    print(f"written: {file}" + (f", {page}" if written else ""))


def fill(file: str | Path, block: str, text: str) -> bool:
    """Replace what lies between `<!-- BLOCK:begin -->` and `<!-- BLOCK:end -->` of a Markdown page.

    Returns:
        False, with the page untouched, where the page or the block is missing, or, which a note
        says, it cannot be written.
    """
    parts = _parts(file, block)
    if parts is None:
        return False
    head, _, tail = parts
    try:
        write_text(file, f"{head}\n{text.strip()}\n{tail}")
    except OSError as error:  # a project that belongs to somebody else
        note(f"the table is not in the page: {describe(error)}")
        return False
    return True


def block_of(file: str | Path, block: str) -> str:
    """What `fill` would replace, "" where there is nothing."""
    parts = _parts(file, block)
    return parts[1] if parts else ""


def _parts(file: str | Path, block: str) -> tuple[str, str, str] | None:
    """A page up to a block, the block, and the page after it, with the marks outside."""
    begin, end = f"<!-- {block}:begin -->", f"<!-- {block}:end -->"
    content = Path(file).read_text("utf-8") if Path(file).exists() else ""
    head, has_begin, rest = content.partition(begin)
    inside, has_end, tail = rest.partition(end)
    return (head + begin, inside, end + tail) if has_begin and has_end else None
