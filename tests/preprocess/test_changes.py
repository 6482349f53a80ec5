"""Changed input: a new generation of copied and computed rows, swapped in at once; open readers
keep theirs."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache, verify
from data.cli import UsageError
from data.sources.images import open_images
from preprocess import commit
from preprocess.build import build
from preprocess.recipe import Recipe

CENTRE = Recipe("spectral", (), 32)


@pytest.fixture
def root(images, tmp_path) -> Path:
    return Path(shutil.copytree(images / "train", tmp_path / "train"))


def run(root, folder, **options):
    return build(str(root), str(folder), CENTRE, shard_size=20, **options)


def masks(folder) -> dict[bytes, bytes]:
    cache = Cache(folder)
    return {path: cache.mask(i).tobytes() for i, path in enumerate(cache.paths.tolist())}


def assert_as_made_at_once(root, folder, tmp_path):
    fresh = tmp_path / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    run(root, fresh)
    assert masks(folder) == masks(fresh)
    assert [problem for _, problem in verify(folder)] == [None] * len(Cache(folder).files)
    assert not list(Path(folder).glob("*.tmp")) and not (Path(folder) / ".progress").exists()
    assert run(root, folder).computed == 0


def picture(root: Path, name: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert cv2.imwrite(str(root / name), pixels)


def test_only_what_changed_is_computed(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    picture(root, "class0/000.png", 1)  # replaced
    picture(root, "class0/000b.png", 2)  # added near the front: every later row moves
    (root / "class1" / "079.png").unlink()
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (2, 78)
    assert Cache(cache).description["generation"] == 2
    assert_as_made_at_once(root, cache, tmp_path)


def test_shards_without_a_change_stay_as_they_are(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    before = {f.name: f.stat().st_ino for f in cache.glob("shard-*.h5")}
    picture(root, "class1/021.png", 3)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (1, 19)
    after = {f.name: f.stat().st_ino for f in cache.glob("shard-*.h5")}
    assert set(after) == {"shard-00000.h5", "shard-00001.h5", "shard-00002-2.h5", "shard-00003.h5"}
    assert all(before[name] == after[name] for name in before if name in after)
    assert_as_made_at_once(root, cache, tmp_path)
    picture(root, "class1/021.png", 4)
    picture(root, "class0/000.png", 4)
    assert run(root, cache).computed == 2
    assert Cache(cache).files == [
        "shard-00000-3.h5",
        "shard-00001.h5",
        "shard-00002-3.h5",
        "shard-00003.h5",
    ]
    assert_as_made_at_once(root, cache, tmp_path)


def test_touched_images_are_not_computed_and_read_once_only(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    run(root, cache)
    before = (cache / "cache.json").read_text()
    for file in root.rglob("*.png"):
        os.utime(file)
    assert run(root, cache).computed == 0
    assert (cache / "cache.json").read_text() == before
    monkeypatch.setattr(
        "data.sources.folder.Folder.read", lambda *_: pytest.fail("an image was read")
    )
    assert run(root, cache).computed == 0


def test_digest_finds_what_length_and_mtime_hide(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    file = root / "class0" / "000.png"
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[-5] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(root, cache).computed == 0
    assert run(root, cache, digest=True).computed == 1


def test_without_an_index_contents_tell(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    (cache / "index.h5").unlink()
    picture(root, "class0/000.png", 5)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (1, 19)


def test_the_tar_of_the_same_images_is_the_same_input(root, tmp_path):
    import tarfile

    cache = tmp_path / "cache"
    run(root, cache)
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(root, ".")
    assert run(tmp_path / "train.tar", cache).computed == 0
    other = tmp_path / "of-tar"
    assert run(tmp_path / "train.tar", other, workers=1).computed == 80
    assert masks(other) == masks(cache)
    assert {f.name: f.read_bytes() for f in other.glob("shard*")} == {
        f.name: f.read_bytes() for f in cache.glob("shard*")
    }


def test_open_readers_keep_their_generation_and_its_files_go_after_them(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    reader = Cache(cache)
    before = masks(cache)
    reader.mask(0)
    pickled = pickle.dumps(reader)
    picture(root, "class0/000b.png", 6)
    run(root, cache)
    assert {
        p: reader.mask(i).tobytes() for i, p in enumerate(reader.paths.tolist())
    } == before  # maps opened late too
    worker = pickle.loads(pickled)  # a worker that starts after the swap
    assert {p: worker.mask(i).tobytes() for i, p in enumerate(worker.paths.tolist())} == before
    assert len(Cache(cache)) == 81
    assert (cache / "shard-00000.h5").exists() and (cache / "cache.1.json").exists()
    del reader, worker
    assert run(root, cache).computed == 0
    assert not (cache / "shard-00000.h5").exists() and not (cache / "cache.1.json").exists()
    with pytest.raises(UsageError, match="brought up to date meanwhile"):
        pickle.loads(pickled)
    assert [problem for _, problem in verify(cache)] == [None] * 5


@pytest.mark.parametrize(
    "step", ["write_description", "write_index", "clean", "write_shard", "_keep_old"]
)
def test_stopped_at_any_step_there_is_one_whole_generation(root, tmp_path, monkeypatch, step):
    cache = tmp_path / "cache"
    run(root, cache)
    before = masks(cache)
    picture(root, "class0/000b.png", 7)
    with monkeypatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(commit, step, stop)
        with pytest.raises(KeyboardInterrupt):
            run(root, cache)
    now = masks(cache)
    assert (
        now == before
        if step in ("write_description", "write_shard", "_keep_old")
        else len(now) == 81
    )
    assert not any(problem for _, problem in verify(cache))
    run(root, cache)
    assert_as_made_at_once(root, cache, tmp_path)


def test_images_added_before_the_first_generation_was_finished(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    real, calls = commit.write_shard, []

    def third_fails(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "write_shard", third_fails)
        with pytest.raises(KeyboardInterrupt):
            run(root, cache)
    picture(root, "class0/000b.png", 8)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (41, 40)
    assert_as_made_at_once(root, cache, tmp_path)


def test_a_list_makes_another_selection_from_the_same_rows(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    names = open_images(root).paths[10:50].tolist()
    (tmp_path / "list.txt").write_bytes(b"\n".join(names))
    outcome = run(root, cache, listed=str(tmp_path / "list.txt"))
    assert (outcome.computed, outcome.copied, len(Cache(cache))) == (0, 40, 40)


def test_a_damaged_shard_gives_no_rows(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    shard = cache / "shard-00003.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    picture(root, "class0/000b.png", 9)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (1 + 20, 60)
    assert_as_made_at_once(root, cache, tmp_path)


def test_log_and_failures_are_told(root, tmp_path):
    (root / "class0" / "bad\nname.png").write_bytes(b"")
    cache = tmp_path / "cache"
    run(root, cache)
    assert (cache / "failures.tsv").read_text() == "empty\tclass0/bad\\nname.png\n"
    lines = [json.loads(line) for line in (cache / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", *["shard"] * 5, "end"]
    assert lines[-1]["statuses"] == {"ok": 80, "empty": 1} and lines[-1]["computed"] == 81
    (root / "class0" / "bad\nname.png").unlink()
    run(root, cache)
    assert not (cache / "failures.tsv").exists()


def test_a_shard_that_is_about_to_be_replaced_gives_no_rows_to_others(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    for name in (
        "cache.json",
        "index.h5",
        "CHECKSUMS",
    ):  # all that tells a generation from the next
        (cache / name).unlink()
    picture(root, "class0/000b.png", 10)  # every later row moves by one
    run(root, cache)
    assert_as_made_at_once(root, cache, tmp_path)


def test_names_that_are_no_utf8(root, tmp_path):
    name = os.fsdecode(b"class0/\xff\xfe.png")
    shutil.copy(root / "class0" / "000.png", root / name)
    (root / os.fsdecode(b"class0/\xfe.png")).write_bytes(b"")
    cache = tmp_path / "cache"
    outcome = run(root, cache, workers=1)
    assert outcome.statuses == {"ok": 81, "empty": 1}
    assert (cache / "failures.tsv").read_bytes() == b"empty\tclass0/\xfe.png\n"
    done = subprocess.run(
        [sys.executable, "-m", "data", "info", str(cache)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and "empty      class0/" in done.stdout
