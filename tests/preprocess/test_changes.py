"""Changed input: new shards of copied and computed rows, committed at once."""

import os
import pickle

import cv2
import pytest

from data.cache.reader import Cache
from data.checksums import problems
from data.sources.base import Folder
from preprocess import writer
from tests.conftest import data, refused, scene
from tests.data.sources.test_archives import tar
from tests.preprocess.runs import call, flip, masks, run, shard

STEPS = ["write_shard", "write_checksums", "write_failures", "write_description", "write_index"]


def picture(root, name):
    assert cv2.imwrite(str(root / name), scene(1000)[0])


def done(root, cache, **options):
    outcome = run(root, cache, **options)
    return outcome.computed, outcome.copied


def assert_as_made_at_once(root, cache, fresh):
    run(root, fresh)
    assert masks(cache) == masks(fresh) and Cache(cache).files == Cache(fresh).files
    assert not any(text for _, text in problems(cache, Cache(cache).files))
    assert not list(cache.glob("*.tmp")) and done(root, cache) == (0, 0)


def test_only_what_changed_is_computed_and_damaged_shards_give_no_rows(root, cache, tmp_path):
    picture(root, "class0/000.png")  # replaced
    picture(root, "class0/000b.png")  # added near the front: every later row moves
    (root / "class1" / "079.png").unlink()
    assert done(root, cache) == (2, 78)
    assert_as_made_at_once(root, cache, tmp_path / "fresh")
    assert data("clean", cache).returncode == 0
    flip(shard(cache, 3), 20_000)
    picture(root, "class0/000a.png")
    assert done(root, cache) == (1 + 20, 60)
    assert_as_made_at_once(root, cache, tmp_path / "again")


def test_shards_without_a_change_stay_and_old_ones_go_with_clean(root, cache, tmp_path):
    before = {file.name: file.stat().st_ino for file in cache.glob("shard-*.h5")}
    old = shard(cache, 2)
    picture(root, "class1/021.png")
    said = call(root, cache).stdout
    assert "1 of 80 masks computed and 19 copied" in said
    assert f"old shards take {old.stat().st_size / 1e6:.1f} MB; when no training" in said
    after = {file.name: file.stat().st_ino for file in cache.glob("shard-*.h5")}
    assert len(after) == 5 and before.items() <= after.items()
    assert "1 old shards removed" in data("clean", cache).stdout and not old.exists()
    assert_as_made_at_once(root, cache, tmp_path / "fresh")


def test_what_did_not_change_is_copied_and_digest_sees_all(root, cache, tmp_path, monkeypatch):
    before, file = masks(cache), root / "class0" / "000.png"
    os.utime(file)
    assert (done(root, cache), masks(cache)) == ((0, 20), before)
    stat = file.stat()
    flip(file, file.stat().st_size * 8 - 40)  # neither length nor mtime tell it
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert done(root, cache) == (0, 0) and done(root, cache, digest=True) == (1, 19)
    assert done(root, cache) == done(root, cache, digest=True) == (0, 0)
    tar(root, tmp_path / "train.tar")  # the same images
    before = masks(cache)
    assert (run(tmp_path / "train.tar", cache).computed, masks(cache)) == (0, before)
    assert run(tmp_path / "train.tar", tmp_path / "of-tar", workers=2).computed == 80
    assert masks(tmp_path / "of-tar") == before
    (tmp_path / "list.txt").write_bytes(b"\n".join(sorted(before)[10:50]))
    assert done(root, cache, listed=str(tmp_path / "list.txt")) == (0, 40)
    monkeypatch.setattr(Folder, "read", lambda *_: pytest.fail("an image was read"))
    (cache / "index.h5").unlink()
    assert done(root, cache, listed=str(tmp_path / "list.txt")) == (0, 0)
    assert (cache / "index.h5").exists() and len(Cache(cache)) == 40


def test_open_readers_keep_their_shards_until_clean(root, cache):
    reader, late, before = Cache(cache), Cache(cache), masks(cache)
    reader.mask(0)
    pickled = pickle.dumps(reader)
    picture(root, "class0/000b.png")
    run(root, cache)
    worker = pickle.loads(pickled)  # a worker that starts after the commit
    for old in (reader, worker):  # maps opened late too
        assert {p: old.mask(i).tobytes() for i, p in enumerate(old.paths.tolist())} == before
    assert len(Cache(cache)) == 81 and data("clean", cache).returncode == 0
    assert reader.mask(79).tobytes() == before[reader.paths[79]]
    for reads in ((pickle.loads, pickled), (late.mask, 0)):
        assert "old shards were removed while they were read" in refused(*reads)


@pytest.mark.parametrize("step", STEPS)
def test_stopped_at_any_step_there_is_one_whole_cache(root, cache, tmp_path, monkeypatch, step):
    def stop(*_):
        raise KeyboardInterrupt

    before = masks(cache)
    picture(root, "class0/000b.png")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, step, stop)
        run(root, cache)
    now = masks(cache)
    assert len(now) == 81 if step == "write_index" else now == before
    assert not any(text for _, text in problems(cache, Cache(cache).files))
    run(root, cache)
    assert_as_made_at_once(root, cache, tmp_path / "fresh")
