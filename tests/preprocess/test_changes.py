"""Changed input: new shards of copied and computed rows, committed at once; open readers keep
theirs."""

import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.checksums import problems
from data.cli import UsageError
from data.sources.folder import Folder
from data.sources.images import ImageError, open_images
from preprocess import writer
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.conftest import scene
from tests.preprocess.runs import call, data, masks, run, shard

cv2 = pytest.importorskip("cv2")


def picture(root, name, seed):
    assert cv2.imwrite(str(root / name), scene(1000 + seed)[0])


def assert_as_made_at_once(root, folder, tmp_path):
    fresh = tmp_path / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    run(root, fresh)
    assert masks(folder) == masks(fresh) and Cache(folder).files == Cache(fresh).files
    assert not any(text for _, text in problems(folder, Cache(folder).files))
    assert not list(folder.glob("*.tmp"))
    assert (run(root, folder).computed, run(root, folder).copied) == (0, 0)


def test_only_what_changed_is_computed(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    picture(root, "class0/000.png", 1)  # replaced
    picture(root, "class0/000b.png", 2)  # added near the front: every later row moves
    (root / "class1" / "079.png").unlink()
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (2, 78)
    assert_as_made_at_once(root, cache, tmp_path)


def test_shards_without_a_change_stay_and_old_ones_go_with_clean(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    before = {file.name: file.stat().st_ino for file in cache.glob("shard-*.h5")}
    old = shard(cache, 2)
    picture(root, "class1/021.png", 3)
    done = call(root, cache)
    assert "1 of 80 masks computed and 19 copied" in done.stdout
    assert f"old shards take {old.stat().st_size / 1e6:.1f} MB; when no training" in done.stdout
    after = {file.name: file.stat().st_ino for file in cache.glob("shard-*.h5")}
    assert len(after) == 5 and before.items() <= after.items()
    assert "1 old shards removed" in data("clean", cache).stdout
    assert not old.exists() and len(list(cache.glob("shard-*.h5"))) == 4
    assert_as_made_at_once(root, cache, tmp_path)


def test_a_touched_image_is_copied_and_no_image_is_read_afterwards(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    run(root, cache)
    before = masks(cache)
    os.utime(root / "class0" / "000.png")
    assert (run(root, cache).computed, masks(cache)) == (0, before)
    monkeypatch.setattr(Folder, "read", lambda *_: pytest.fail("an image was read"))
    (cache / "index.h5").unlink()
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
    assert run(root, cache).computed == run(root, cache, digest=True).computed == 0


def test_the_tar_of_the_same_images_is_the_same_input(root, cache, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(root, ".")
    before = masks(cache)
    assert (run(tmp_path / "train.tar", cache).computed, masks(cache)) == (0, before)
    assert run(tmp_path / "train.tar", tmp_path / "of-tar", workers=1).computed == 80
    assert masks(tmp_path / "of-tar") == before


def test_open_readers_keep_their_shards_until_clean(root, tmp_path):
    cache = tmp_path / "cache"
    run(root, cache)
    reader, before = Cache(cache), masks(cache)
    reader.mask(0)
    pickled = pickle.dumps(reader)
    picture(root, "class0/000b.png", 6)
    run(root, cache)
    worker = pickle.loads(pickled)  # a worker that starts after the commit
    for old in (reader, worker):  # maps opened late too
        assert {p: old.mask(i).tobytes() for i, p in enumerate(old.paths.tolist())} == before
    assert len(Cache(cache)) == 81
    assert data("clean", cache).returncode == 0
    assert reader.mask(79).tobytes() == before[reader.paths[79]]
    with pytest.raises(UsageError, match="old shards were removed while they were read"):
        pickle.loads(pickled)
    assert_as_made_at_once(root, cache, tmp_path)


@pytest.mark.parametrize(
    "step", ["write_shard", "write_checksums", "write_failures", "write_description", "write_index"]
)
def test_stopped_at_any_step_there_is_one_whole_cache(root, tmp_path, monkeypatch, step):
    cache = tmp_path / "cache"
    run(root, cache)
    before = masks(cache)
    picture(root, "class0/000b.png", 7)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, step, stop)
        with pytest.raises(KeyboardInterrupt):
            run(root, cache)
    now = masks(cache)
    assert len(now) == 81 if step == "write_index" else now == before
    assert not any(text for _, text in problems(cache, Cache(cache).files))
    run(root, cache)
    assert_as_made_at_once(root, cache, tmp_path)


def test_images_added_before_the_cache_was_finished(root, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    real, calls = writer.write_shard, []

    def third_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_shard", third_fails)
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
    content = bytearray(shard(cache, 3).read_bytes())
    content[len(content) // 2] ^= 4
    shard(cache, 3).write_bytes(content)
    picture(root, "class0/000b.png", 9)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied) == (1 + 20, 60)
    assert_as_made_at_once(root, cache, tmp_path)


def test_log_and_failures(root, tmp_path):
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


def test_maps_that_come_or_change_later_are_taken(images, root, tmp_path):
    maps, cache = tmp_path / "maps", tmp_path / "cache"
    (maps / "class1").mkdir(parents=True)
    shutil.copytree(images / "masks" / "class0", maps / "class0")
    recipe = Recipe("files", (), 32, str(maps))

    def again(**options):
        outcome = build(str(root), str(cache), recipe, shard_size=20, **options)
        return outcome.computed, outcome.copied

    again()
    assert Cache(cache).status[40:].tolist() == [STATUS["no_map"]] * 40
    shutil.copy(images / "masks" / "class1" / "001.png", maps / "class1")
    again()
    assert np.flatnonzero(Cache(cache).status == 0).tolist() == [*range(41)]
    shutil.copytree(images / "masks" / "class1", maps / "class1", dirs_exist_ok=True)
    assert again()[0] == 39 and not Cache(cache).status.any() and again() == (0, 0)
    before = Cache(cache).mask(5).copy()
    cv2.imwrite(str(maps / "class0" / "010.png"), np.zeros((48, 48), np.uint8))
    assert again() == (1, 19) and before.any() and not Cache(cache).mask(5).any()


def test_statuses_of_the_moment_are_tried_again(root, tmp_path, monkeypatch):
    cache, real = tmp_path / "cache", Folder.read

    def fails(self, row):
        if self.paths[row] in (b"class0/010.png", b"class1/011.png"):
            raise ImageError("missing", "the server is away")
        return real(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", fails)
        for _ in range(2):
            outcome = run(root, cache)
            assert outcome.statuses == {"ok": 78, "missing": 2}
        assert (outcome.computed, outcome.bytes) == (2, 0)
    outcome = run(root, cache)
    assert (outcome.computed, outcome.copied, outcome.statuses) == (2, 38, {"ok": 80})
    assert_as_made_at_once(root, cache, tmp_path)
