"""HDF5 files that come from elsewhere: read only where a column lies in the file."""

import h5py
import numpy as np
import pytest

from data.columns import open_columns, own_dataset, to_bytes


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x.h5").write_bytes(to_bytes({"a": np.arange(5), "q/b": np.zeros((2, 3), "u1")}))
    return tmp_path / "x.h5"


def test_columns_come_back_page_by_page(file):
    with open_columns(file) as content:
        assert own_dataset(content, "a", "<i8", (5,))[...].tolist() == [0, 1, 2, 3, 4]
        assert own_dataset(content, "q/b", "|u1", (None, 3)).shape == (2, 3)
        assert own_dataset(content, "a", "<i8", (None,)).id.get_offset() % 4096 == 0
    assert file.read_bytes() == to_bytes({"a": np.arange(5), "q/b": np.zeros((2, 3), "u1")})


def test_what_is_missing_or_damaged_says_so(file, tmp_path):
    absent = pytest.raises(FileNotFoundError, match=r"No such file or directory: .*y\.h5")
    with absent, open_columns(tmp_path / "y.h5"):
        pass
    with pytest.raises(ValueError, match="missing"), open_columns(file) as content:
        own_dataset(content, "c", "<i8", (5,))
    with pytest.raises(ValueError, match="no column"), open_columns(file) as content:
        own_dataset(content, "q", "<i8", (5,))
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match="truncated"), open_columns(file):
        pass


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "a", (10,))
    file.create_virtual_dataset("z", layout)


def stored(**options):
    return lambda file: file.create_dataset("z", **options)


def held(value):
    return lambda file: file.__setitem__("z", value)


@pytest.mark.parametrize(
    "change",
    [
        stored(shape=(1 << 40,), dtype="u1"),  # contiguous, and nothing of it written
        stored(data=np.zeros(100, "u1"), chunks=(10,), compression="gzip"),
        stored(shape=(10,), dtype="u1", external=[("/etc/hostname", 0, 10)]),
        held(["text of", "any length"]),
        held(h5py.ExternalLink("/etc/passwd", "a")),
        held(h5py.SoftLink("/a")),
        virtual,
    ],
)
def test_only_numbers_in_one_piece_of_this_file_are_read(file, change):
    with h5py.File(file, "r+") as content:
        change(content)
    with pytest.raises(ValueError, match="z: "), open_columns(file) as content:
        own_dataset(content, "z", "|u1", (None,))
