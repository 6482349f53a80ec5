"""Write a table between a pair of HTML comment markers of a Markdown file, so that its numbers are
never typed in."""

from __future__ import annotations

from pathlib import Path


def fill(file: str | Path, name: str, text: str) -> bool:
    """Replace what lies between `<!-- name:begin -->` and `<!-- name:end -->` of `file` by `text`.

    Returns:
        False, with the file untouched, where the file or the markers are missing.
    """
    file = Path(file)
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = file.read_text() if file.exists() else ""
    head, found_begin, rest = content.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        return False
    file.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}")
    return True
