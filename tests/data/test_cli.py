"""Errors and exit codes of every command line."""

import errno
import os

import pytest

from data.cli import UsageError, note, run


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
def test_usage_names_the_positional_arguments(command, arguments, data):
    usage = data(command, "--help")[1].splitlines()[0]
    assert f"] {arguments}" in usage and "STR " not in usage.split("--")[0] + " "


H5 = "Can't synchronously write data (file write failed: errno = 28, error message = 'No space')"
OPEN = "Unable to open file (unable to open file: name = '/x/y.h5', errno = 13, flags = 0)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UsageError("bad\n  input"), "error: bad input"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "error: a/b: No space left"),
        (OSError(errno.EIO, "Input/output error", b"caf\xe9"), r"error: caf\udce9: Input/output"),
        (OSError(errno.EROFS, "Read-only file system"), "error: Read-only file system; a read-"),
        (OSError(H5), "error: No space left on device; free some space"),
        (OSError(OPEN), "error: /x/y.h5: Permission denied; give a place"),
        (OSError(errno.EBADF, "Bad file descriptor", 3), "error: Bad file descriptor"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(error, said, capsys):
    def command() -> int:
        raise error

    with pytest.raises(SystemExit) as exit_:
        run(command)
    lines = capsys.readouterr().err.encode("utf-8", "backslashreplace").decode().splitlines()
    assert exit_.value.code == 2 and len(lines) == 1 and lines[0].startswith(said)


def test_a_note_is_said_once_by_the_processes_of_a_job(monkeypatch, capsys):
    for rank in (0, 1):
        monkeypatch.setitem(os.environ, "RANK", str(rank))
        note("look")
    assert capsys.readouterr().err == "note: look\n"
