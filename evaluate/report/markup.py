"""HTML in which every text is escaped: names and paths of runs are anybody's."""

from __future__ import annotations

import html
import unicodedata

VOID = {"img", "meta", "br"}
TURNING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"  # of the direction of writing


class Markup(str):
    """Text that is HTML already."""


def safe(text: object) -> Markup:
    """Any text as HTML, also for an attribute in quotes. Bytes that are no UTF-8 and control
    characters, also those that turn the direction of writing, become U+FFFD."""
    if isinstance(text, Markup):
        return text
    plain = "".join(
        "\ufffd"
        if c in TURNING or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t")
        else c
        for c in str(text)
    )
    return Markup(html.escape(plain, quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; children are escaped unless they are Markup, attributes always. `class_` is
    class, `a_b` is a-b; an attribute that is None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{''.join(safe(child) for child in children)}</{name}>")


def join(parts: list) -> Markup:
    """Parts one after the other, escaped unless they are Markup."""
    return Markup("".join(safe(part) for part in parts))
