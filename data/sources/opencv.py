"""OpenCV's decoder: RGB whatever the file holds, and nothing of its libraries on the terminal."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV names these bits grey, and with a bit for colour they reduce in colour
REDUCE = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class _Silence:
    """Standard error turned away while C libraries run, whose warnings would break a bar.

    Several threads may be within; the last one turns it back.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.inside = 0
        self.kept = -1

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self._turn_away()
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside and self.kept >= 0:
                    os.dup2(self.kept, 2)
                    os.close(self.kept)

    def _turn_away(self) -> None:
        self.kept = -1
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            self.kept = os.dup(2)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        except OSError:  # no standard error, or no descriptor left: then the warnings are printed
            return


silence = _Silence()


def imdecode(content: bytes, reduce: int = 1) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None where OpenCV refuses the file.

    Args:
        reduce: 1, 2, 4 or 8: a JPEG's height and width are divided by it.

    Raises:
        MemoryError: the machine has not the memory for it now.
    """
    try:
        with silence():
            return cv2.imdecode(np.frombuffer(content, np.uint8), FLAGS | REDUCE[reduce])
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        return None
