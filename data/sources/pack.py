"""Makes a pack of images (data/sources/packed.py): each image's file, made smaller where it is
larger than needed.

Shards are immutable, atomic and the unit of resuming: a shard whose images are those of now,
unchanged, is kept.
"""

from __future__ import annotations

import fcntl
import json
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import h5py
import numpy as np
from tqdm import tqdm

from data.cache.shard import (
    ALIGNMENT,
    own_width,
    problem,
    read_checksums,
    sha256_of,
    write_checksums,
)
from data.cli import UsageError
from data.io import write_bytes, write_text
from data.sources.images import ImageError, Images, decode, image_size, open_images
from data.sources.packed import PACK, SCHEMA, PackError, describe, is_pack, read_shard, shard_file

BLOCK = 64  # images a task
AHEAD = 2  # tasks that wait for each worker
KEPT_BROKEN = (
    1 << 20
)  # bytes; a broken file up to this is kept as it is, so that it fails as it does in the folder
SETTINGS = "settings.json"  # of a pack that is being made
OWN = (
    "images-*",
    "CHECKSUMS*",
    f"{PACK}*",
    f"{SETTINGS}*",
    ".lock",
)  # what a pack's folder may hold


def smaller(content: bytes, side: int, quality: int) -> bytes:
    """An image file no larger than needed: its short side is `side` pixels at most.

    A file that is small enough stays as it is, byte for byte. Others are decoded as every stage
    does (data/sources/decode.py), area-averaged, and written as JPEG with OpenCV's settings (4:2:0
    chroma).

    Args:
        side: in pixels; 0 keeps every file as it is.  quality: of JPEG, 1..100.

    Raises:
        ImageError: it cannot be decoded.
    """
    width, height = image_size(content) if side else (0, 0)
    short = min(width, height)
    if short <= side:
        return content
    size = max(1, round(width * side / short)), max(1, round(height * side / short))
    image = cv2.resize(decode(content), size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def pack(
    root: str,
    folder: str,
    side: int = 256,
    quality: int = 90,
    shard_size: int = 2048,
    workers: int = 1,
    listed: str | None = None,
    repair: bool = False,
) -> tuple[int, int]:
    """Make, complete or repair the pack `folder` of all images under `root`.

    Args:
        root: folder, tar or another pack.  listed: text file of the paths to take; None: all.
        side, quality: see smaller.  shard_size: images a shard.
        workers: processes; the files do not depend on it.
        repair: check every shard against its SHA-256 and make the damaged ones anew.

    Returns:
        how many images were packed now, and how many of the pack's take no bytes: missing, or
        broken and large.

    Raises:
        UsageError: bad settings, no images, a folder of something else, or a finished pack of other
            images.
        OSError: no space, a read-only folder; finished shards stay.
    """
    if side < 0 or not 1 <= quality <= 100 or shard_size < 1 or workers < 1:
        raise UsageError(
            f"--side {side} --quality {quality} --shard-size {shard_size} --workers {workers}: needs side "
            "at least 0, quality in 1..100, the others at least 1"
        )
    images, folder = open_images(root, listed), Path(folder)
    settings = {"schema": SCHEMA, "side": side, "quality": quality, "shard_size": shard_size}
    _check_folder(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is making this pack") from None
        return _complete(images, folder, settings, workers, repair)


def _check_folder(folder: Path, settings: dict) -> None:
    if not folder.exists():
        return
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    strange = [file for file in files if not any(file.match(pattern) for pattern in OWN)]
    if strange:
        raise UsageError(f"{strange[0]}: is no part of a pack of images; choose another OUT")
    before = describe(folder) if is_pack(folder) else None
    if before is None and (folder / SETTINGS).exists():
        try:
            before = json.loads((folder / SETTINGS).read_text())
        except ValueError:
            raise PackError(
                f"{folder / SETTINGS}: damaged; delete {folder} and make the pack anew"
            ) from None
    different = (
        [f"{k} {before.get(k)} -> {v}" for k, v in settings.items() if before.get(k) != v]
        if before
        else []
    )
    if different:
        raise UsageError(
            f"{folder}: holds a pack with other settings ({', '.join(different)}); choose another OUT, or "
            "delete it"
        )


def _complete(
    images: Images, folder: Path, settings: dict, workers: int, repair: bool
) -> tuple[int, int]:
    sources, size = images.stat(), settings["shard_size"]
    for leftover in folder.glob("*.tmp"):
        leftover.unlink()
    checksums, finished = read_checksums(folder), is_pack(folder)
    if finished and describe(folder)["images"] != len(images):
        raise UsageError(
            f"{folder}: is a finished pack of {describe(folder)['images']} images, and there are "
            f"{len(images)} now; choose another OUT, or delete it"
        )
    if not finished:
        write_text(folder / SETTINGS, json.dumps(settings) + "\n")
    parts = [slice(first, min(first + size, len(images))) for first in range(0, len(images), size)]
    missing = [
        n
        for n, part in enumerate(parts)
        if not _is_kept(folder, n, images.paths[part], sources[part], checksums, finished, repair)
    ]
    count = sum(parts[n].stop - parts[n].start for n in missing)
    with tqdm(total=count, desc="pack", unit="img", delay=2, smoothing=0.05) as bar:
        made = _blocks(images, [parts[n] for n in missing], settings, workers, bar)
        for number in missing:
            part = parts[number]
            contents = [
                content for _ in range(part.start, part.stop, BLOCK) for content in next(made)
            ]
            whole = _shard(images.paths[part], contents, sources[part])
            write_bytes(shard_file(folder, number), whole)
            checksums[shard_file(folder, number).name] = sha256_of(whole)
            write_checksums(folder, checksums)
    if missing or not finished:
        files = [shard_file(folder, number) for number in range(len(parts))]
        write_text(
            folder / PACK,
            json.dumps(
                settings
                | {
                    "images_root": Path(images.root).resolve().name,
                    "images": len(images),
                    "file_bytes": [file.stat().st_size for file in files],
                },
                indent=2,
            )
            + "\n",
        )
        (folder / SETTINGS).unlink(missing_ok=True)
    empty = sum(
        int((np.diff(read_shard(shard_file(folder, n))[1]) == 0).sum()) for n in range(len(parts))
    )
    return count, empty


def _is_kept(
    folder: Path,
    number: int,
    paths: np.ndarray,
    sources: np.ndarray,
    checksums: dict[str, str],
    finished: bool,
    repair: bool,
) -> bool:
    """Whether a shard is there, of these images, unchanged. UsageError where a finished pack's is
    of others: whoever reads it now would find other images in their places."""
    file = shard_file(folder, number)
    if (
        file.name not in checksums
        or not file.exists()
        or (repair and problem(folder, file.name, checksums))
    ):
        return False
    try:
        found, _, before, _ = read_shard(file)
    except PackError:
        return False
    if np.array_equal(found, paths) and np.array_equal(before, sources):
        return True
    if finished:
        raise UsageError(
            f"{folder}: is a finished pack, and images of {file.name} were changed since; choose another "
            "OUT, or delete it"
        )
    return False


def _blocks(
    images: Images, parts: list[slice], settings: dict, workers: int, bar: tqdm
) -> Iterator[list[bytes]]:
    """The files of each block of the parts, in order, made ahead by the workers."""
    blocks = (
        slice(first, min(first + BLOCK, part.stop))
        for part in parts
        for first in range(part.start, part.stop, BLOCK)
    )
    tasks = ((images.take(block), settings["side"], settings["quality"]) for block in blocks)
    if workers == 1:
        for task in tasks:
            yield _block(*task)
            bar.update(len(task[0]))
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    waiting = deque()
    try:
        before = signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C is the driver's; workers inherit this
        for _ in range(workers):
            pool.submit(int)  # starts one each
        signal.signal(signal.SIGINT, before)
        for task in tasks:
            waiting.append((len(task[0]), pool.submit(_block, *task)))
            if len(waiting) < AHEAD * workers:
                continue
            yield waiting[0][1].result()
            bar.update(waiting.popleft()[0])
        while waiting:
            yield waiting[0][1].result()
            bar.update(waiting.popleft()[0])
    finally:
        pool.shutdown(cancel_futures=True)


def _block(images: Images, side: int, quality: int) -> list[bytes]:
    contents = []
    for row in range(len(images)):
        content = b""
        try:
            content = images.read(row)
            contents.append(smaller(content, side, quality))
        except ImageError:
            contents.append(content if len(content) <= KEPT_BROKEN else b"")
    return contents


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also in one that starts later
    cv2.setNumThreads(1)


def _shard(paths: np.ndarray, contents: list[bytes], sources: np.ndarray) -> bytes:
    """A shard's file as bytes, see data/sources/packed.py. Same images, same bytes."""
    offset = np.concatenate([[0], np.cumsum([len(content) for content in contents])]).astype("<i8")
    with h5py.File(
        "shard",
        "w",
        driver="core",
        backing_store=False,
        alignment_threshold=1,
        alignment_interval=ALIGNMENT,
    ) as file:
        for name, values in (
            ("path", own_width(paths)),
            ("offset", offset),
            ("source", sources.astype("<i8")),
            ("bytes", np.frombuffer(b"".join(contents), np.uint8)),
        ):
            file.create_dataset(name, data=values, track_times=False)
        file.flush()
        return file.id.get_file_image()
