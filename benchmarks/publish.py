"""What every benchmark does at its end: its table on the screen and in a Markdown file, its numbers
in a JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from pathlib import Path

from benchmarks.readme import fill
from data.io import write_text


def about() -> dict[str, str]:
    """What it takes to read numbers later: {"date", "machine", "command"}."""
    name = Path(sys.argv[0]).stem
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
    }


def publish(result: dict, text: str, file: str | Path, markdown: str | Path, block: str) -> None:
    """Print `text`; write `result`, and what `about` says, to the JSON `file`, and `text` into
    `markdown`.

    Args:
        block: of the Markdown file, see benchmarks.readme.fill; it may be missing.
    """
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(file), json.dumps(about() | result, indent=2) + "\n")
    print(text)
    written = fill(markdown, block, text)
    print(f"written: {file}" + (f", {markdown}" if written else ""))
