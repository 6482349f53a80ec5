"""A folder of generated pictures: its record says what is in it, and stands under a temporary name
until all of it is."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.io import LARGEST_JSON, entries, lock, read_json, write_bytes, write_text
from data.parallel import bounded_map


class Output:
    """The folder.

    Args:
        file: name of the record's file.
        record: of the set that is wanted; `name` says what kind of set it is.

    Attributes:
        before: record of the set that is there, finished or not; None where there is none.
        finished: whether the set that is wanted is there.

    Raises:
        UsageError: the folder is no such set, nor empty.
    """

    def __init__(self, folder: str | os.PathLike, file: str, record: Mapping):
        self.folder, self.record = Path(folder), record
        self.text = json.dumps(record, indent=1) + "\n"
        self.file = self.folder / file
        self.unfinished = self.folder / f"{file}.tmp"
        self.before = self._read(self.unfinished) or self._read(self.file)
        self.finished = self.before == record and not self.unfinished.exists()
        names = [file.name for file in entries(self.folder)]
        if names and not self.before:
            raise UsageError(
                f"{folder}: holds other files ({', '.join(names[:5])}); give an empty or new folder"
            )

    def _read(self, file: Path) -> dict | None:
        try:
            record = read_json(file, max(LARGEST_JSON, 2 * len(self.text)))
            return record if record["name"] == self.record["name"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(
        self, function: Callable[[list], int], jobs: Sequence, workers: int, own: Sequence[str] = ()
    ) -> None:
        """Run a function of a block of jobs over all of them; it returns the block's length.

        Args:
            own: patterns of files that are removed first: of another set, or half-written.

        Raises:
            UsageError: one of them lies in a folder that is a link out of the set's, or another
                process is writing the set.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"{self.folder}: another process is writing this set; wait for it or stop it"
        with lock(self.folder / ".lock", busy, remove=True):
            self._prepare(own)
            blocks = [jobs[i : i + BLOCK] for i in range(0, len(jobs), BLOCK)]
            counts = bounded_map(function, blocks, workers if workers > 1 else 0)
            bar = tqdm(total=len(jobs), desc=self.file.stem, unit="img")
            with closing(counts), bar:
                for count in counts:
                    bar.update(count)
            os.replace(self.unfinished, self.file)

    def _prepare(self, own: Sequence[str]) -> None:
        write_text(self.unfinished, self.text)
        self.file.unlink(missing_ok=True)
        root = self.folder.resolve()
        for pattern in own:
            for file in [*root.glob(pattern), *root.glob(f"{pattern}.*.tmp")]:
                if not file.parent.resolve().is_relative_to(root):
                    raise UsageError(f"{file.parent}: a link out of {root}; remove it")
                file.unlink(missing_ok=True)


BLOCK = 32  # jobs a task


def write_file(file: Path, content: bytes) -> None:
    """Write a file that the same command would write again, in a folder made where missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, content, durable=False)


def write_jpeg(file: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB at quality 95."""
    jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1]
    write_file(file, jpeg.tobytes())
