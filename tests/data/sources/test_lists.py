"""Lists of images: what other tools write is understood, what is not there is said."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.cli import UsageError
from data.sources.images import ImageError, open_images
from data.sources.pack import pack as make_pack
from tests.data.sources.test_archives import pack


@pytest.fixture(scope="module")
def roots(images, tmp_path_factory) -> list[Path]:
    """The same images as a folder, a tar and a pack."""
    folder = tmp_path_factory.mktemp("roots")
    make_pack(str(images / "train"), str(folder / "pack"))
    return [images / "train", pack(folder / "x.tar", images / "train"), folder / "pack"]


@pytest.mark.parametrize(
    "content",
    [
        b"class1/003.png\n\n./class0/002.png\r\nclass1/003.png\n",
        b"class1/003.png 1\nclass0/002.png 0\n",  # Caffe, mmselfsup
        b"class1/003.png\t1 0 -1.5\r\nclass0/002.png,class0",
        b"\xef\xbb\xbfclass1/003.png \nclass0/002.png\t\n",
        b"ROOT/class1/003.png\nROOT/class0/002.png\n",
    ],
)
def test_a_list_names_the_images_of_a_folder_or_tar_or_pack(images, roots, tmp_path, content):
    for root in roots:
        (tmp_path / "list.txt").write_bytes(content.replace(b"ROOT", os.fsencode(root)))
        found = open_images(root, str(tmp_path / "list.txt"))
        assert found.paths.tolist() == [b"class0/002.png", b"class1/003.png"]
        assert found.read(1) == (images / "train" / "class1" / "003.png").read_bytes()
        left = open_images(root).without(tmp_path / "list.txt")
        assert len(left) == 78 and not np.isin(found.paths, left.paths).any()


def test_missing_paths_are_named_and_a_list_of_nothing_stops(roots, tmp_path, capsys):
    for root in roots:
        listed = tmp_path / "list.txt"
        listed.write_text("class0/000.png\n" + "".join(f"class0/g{i}.png\n" for i in range(9)))
        found = open_images(root, str(listed))
        with pytest.raises(ImageError) as error:
            found.read(1)
        assert error.value.reason == "missing"
        note = capsys.readouterr().err
        assert "9 of its 10 paths are not among the images" in note
        assert "class0/g0.png, class0/g1.png" in note and "g5" not in note
        own = os.path.basename(root)
        for line, reason in (
            (f"{own}/class0/000.png", "the folder's own name"),
            ("class0\\000.png", "backslashes"),
            ("class0/000", "do not end as an image's name does"),
            ("000.png", "have no folder"),
            ("class0/000.png masks/000.png", "several paths a line"),
            ("class0/999.png", "another folder"),
        ):
            listed.write_text(line)
            with pytest.raises(UsageError, match=f"1 of its 1 paths .*{reason}"):
                open_images(root, str(listed))
            with pytest.raises(UsageError, match=f"--exclude .*1 of its 1 .*{reason}"):
                open_images(root).without(str(listed))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"class0/000.png\n../x.png", r"line 2: .* is not a path below the image root"),
        (b"class0/000.png\n/etc/passwd", r"line 2: .* is not a path below the image root"),
        (b"class0/000.png\na/../../x.png", r"line 2: .* is not a path below the image root"),
        (b"class0/000.png\na//x.png", r"line 2: .* is not a path below the image root"),
        (b"\n", "names no image"),
        ("class0/000.png".encode("utf-16"), "in UTF-8"),
        (None, "No such file"),
    ],
)
def test_bad_lists(images, tmp_path, content, said):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        open_images(images / "train", str(tmp_path / "list.txt"))


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict", "utf-8:strict"])
def test_names_of_other_encodings_are_listed_on_any_terminal(tmp_path, encoding):
    name = b"caf\xe9 %#\xe2\x98\x83.jpg"
    (tmp_path / "images").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/images/" + name)).write_bytes(b"x")
    command = [sys.executable, "-m", "data", "list", tmp_path / "images"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "list.txt"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0 and b"caf" in done.stdout and not done.stderr
    assert (tmp_path / "list.txt").read_bytes() == name + b"\n"
    assert open_images(tmp_path / "images", str(tmp_path / "list.txt")).read(0) == b"x"
