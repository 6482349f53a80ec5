"""Signals, dead workers, a full and a read-only disk, flipped bits, a second process."""

import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cache.verify import LOCK
from data.checksums import problems
from data.io import lock
from preprocess import writer
from preprocess.pipeline import build
from tests.conftest import children, contents, data, mounted, one_line, start, wait_for
from tests.preprocess.runs import Deadly, call, command, flip, inline, run, shard


@pytest.mark.parametrize(("name", "code"), {"INT": 130, "TERM": 0, "USR1": 0, "KILL": -9}.items())
def test_a_signal_leaves_whole_shards_and_says_how_to_go_on(images, whole, tmp_path, name, code):
    folder = tmp_path / "cache"
    process = start(command(images / "train", folder))
    wait_for((folder / "log.jsonl").exists, process)
    os.killpg(process.pid, signal.Signals[f"SIG{name}"])  # to the workers too, as a terminal does
    _, errors = process.communicate(timeout=60)
    if "stopped" not in errors and process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == code and "Traceback" not in errors, errors
    for file in folder.glob("shard-*.h5"):
        assert file.read_bytes() == (whole / file.name).read_bytes()
    if name != "KILL":
        assert "the same command continues" in errors and not list(folder.rglob("*.tmp"))
        assert '"stopped"' in (folder / "log.jsonl").read_text().splitlines()[-1]
    assert call(images / "train", folder).returncode == 0
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("always", [True, False])
def test_images_that_kill_their_worker_are_found_and_the_rest_goes_on(tmp_path, capsys, always):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(66):
        side = 13 if i == 65 else 16
        cv2.imwrite(str(images / f"{i:03d}.png"), np.full((side, side, 3), i, np.uint8))
    recipe = Deadly("centre", flag=str(tmp_path / ("none/flag" if always else "flag")))
    for name in ("cache", "again"):
        build(str(images), str(tmp_path / name), recipe, shard_size=150, workers=2)
        said = capsys.readouterr().err
        assert ("a worker died" in said) == (always or name == "cache")
        assert said.count("crashed: 065.png") == always
    assert contents(tmp_path / "cache") == contents(tmp_path / "again")
    cache = Cache(tmp_path / "cache")
    assert cache.status.tolist() == [0] * 65 + [STATUS["crashed"] if always else 0]
    assert cache.column("digest").any(1).all()
    assert [cache.mask(i).any() for i in (0, 64, 65)] == [True, True, not always]


def test_workers_end_when_their_driver_is_killed(many, tmp_path):
    process = start(command(many, tmp_path / "cache"))
    wait_for(lambda: list((tmp_path / "cache").glob("shard-*.h5")), process)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, workers)))
    assert workers


def alive(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_text())  # a zombie has none
    except OSError:
        return False


def test_a_full_and_a_read_only_disk(images, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = command(images / "train", disk / "cache")
    done = mounted(arguments, f"mount -t tmpfs -o ro none {disk}")
    assert "Read-only file system" in one_line(done)
    more = f'find {disk} -name "*.tmp"; mount -o remount,size=8m {disk}; "$@"; cp -r {disk} {disk}2'
    more += f'; mount -o remount,ro {disk}; "$@"'
    script = ["bash", "-c", f'"$@"; {more}', "bash", *arguments]
    done = mounted(script, f"mount -t tmpfs -o size=140k none {disk}")  # room for one shard
    assert "No space left on device" in done.stderr and ".tmp" not in done.stdout
    assert "the same command continues" in done.stderr and "nothing to do" in done.stdout
    assert contents(tmp_path / "disk2" / "cache") == contents(whole)


def test_damage_of_every_kind_is_found_and_repaired(images, whole, tmp_path):
    cache = Path(shutil.copytree(whole, tmp_path / "cache"))
    flipped, lost, cut = (shard(cache, number) for number in (1, 2, 3))
    sound, files = flipped.read_bytes(), Cache(cache).files
    for bit in [0, 77, 5600, *np.random.default_rng(0).integers(0, 8 * len(sound), 17).tolist()]:
        flipped.write_bytes(sound)
        flip(flipped, bit)
        assert [name for name, text in problems(cache, files) if text] == [flipped.name], bit
    cut.write_bytes(cut.read_bytes()[:3000])
    lost.unlink()
    shutil.copytree(cache, tmp_path / "copy")
    assert run(images / "train", tmp_path / "copy").computed == 40  # found without --repair
    done = data("verify", cache)
    assert done.returncode == 1 and "--repair" in done.stderr
    assert "missing" in done.stderr and "damaged since" in done.stderr
    assert run(images / "train", cache, repair=True).computed == 60  # exactly these three
    assert contents(cache) == contents(whole)
    log = [json.loads(line) for line in (cache / "log.jsonl").read_text().splitlines()]
    assert set(log[-5]["damaged"]) == {flipped.name, cut.name, lost.name}
    (cache / "CHECKSUMS").unlink()
    description = cache / "cache.json"
    description.write_text(description.read_text().replace("spectral", "spectrum"))
    assert "cache.json: damaged" in one_line(inline(images / "train", cache))
    assert inline(images / "train", cache, "--repair").returncode == 0
    assert contents(cache) == contents(whole)


def test_a_second_process_is_refused(images, whole, tmp_path):
    arguments, part = (images / "train", tmp_path / "cache"), ("--part", "1/2")
    (tmp_path / "cache").mkdir()
    with writer.writing(tmp_path / "cache", (1, 2)):
        assert "another process is computing part 1/2" in one_line(inline(*arguments, *part))
    busy = "another process is writing this cache"
    with lock(tmp_path / "cache" / LOCK):
        for refused in (inline(*arguments), inline(*arguments, *part)):
            assert busy in one_line(refused)
    assert inline(*arguments).returncode == 0
    with lock(tmp_path / "cache" / LOCK):  # as a job does that looks at the same moment
        for found in (inline(*arguments), inline(*arguments, *part)):
            assert found.returncode == 0 and "nothing to do" in found.stdout
        for refused in (inline(*arguments, "--repair"), data("clean", arguments[1])):
            assert busy in one_line(refused)
    assert contents(tmp_path / "cache") == contents(whole)
