"""The data commands in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data.__main__ import main
from data.cli import run


@pytest.fixture
def data(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """`python -m data ...`: exit code, what is printed, and the errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(main)
        return exit_.value.code, *capsys.readouterr()

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder but for locks."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
