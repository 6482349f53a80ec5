"""What --help calls the arguments that have no name: IMAGES and CACHE say more than STR and STR."""

import sys

import pytest

from data.__main__ import main


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("info", "CACHE"),
        ("pack", "IMAGES OUT"),
        ("list", "IMAGES"),
        ("synthetic", "OUT"),
        ("challenge", "IMAGES CACHE OUT"),
    ],
)
def test_usage_names_the_positional_arguments(command, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data", command, "--help"])
    with pytest.raises(SystemExit):
        main()
    usage = capsys.readouterr().out.splitlines()[0]
    assert f"] {arguments}" in usage and "STR " not in usage.split("--")[0] + " "
