"""Listing and decoding."""

import os

import pytest

from data.cli import UsageError
from data.sources.images import list_images


def test_list_is_sorted_by_bytes_at_any_depth_and_follows_links(tmp_path):
    for name in ("b/x.JPEG", "a/deep/er/y.png", "a/ünï code.webp", "a/notes.txt", "Z.bmp"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.jpg").write_bytes(b"x")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "c")
    os.symlink(tmp_path / "root", tmp_path / "root" / "loop")  # must not be walked for ever
    found = [p.decode() for p in list_images(tmp_path / "root").tolist()]
    assert found == sorted(
        ["Z.bmp", "a/deep/er/y.png", "a/ünï code.webp", "b/x.JPEG", "c/linked.jpg"], key=str.encode
    )


def test_bad_folders(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        list_images(tmp_path / "nope")
    with pytest.raises(UsageError, match="no images"):
        list_images(tmp_path)
