"""The data commands in this process."""

import sys
from collections.abc import Callable

import pytest

from data.__main__ import main
from data.cli import run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(monkeypatch, capsys) -> Command:
    """`python -m data ...`: exit code, what is printed, and the errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(main)
        return exit_.value.code, *capsys.readouterr()

    return call
