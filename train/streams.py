"""Randomness that depends on what is drawn, not on who draws it.

Every draw of a view comes from (seed, epoch, index, view), so views do not depend on the number of
workers, and resuming in the middle of an epoch needs two integers. Pasting has a stream of its own:
two runs that differ only in DiLo see the same crops and colours.
"""

import numpy as np
from numpy.random.bit_generator import ISeedSequence

VIEW, PASTE, ORDER, SHUFFLE, WEIGHTS, CONTROL, RECROP = range(
    7
)  # purposes: streams that never overlap
NOISE = 16  # a method's own purposes are numbered from 16


def stream(
    purpose: int, seed: int, epoch: int = 0, index: int = 0, view: int = 0
) -> np.random.Generator:
    """A generator of its own for these integers (0 <= seed, epoch < 2^32; index < 2^52; view < 16;
    purpose < 256).

    Philox is counter-based and keyed directly: no warm-up, no hashing of seeds. `Philox(key=...)`
    is the same, but asks the system for entropy that it then drops (20 us against 5).
    """
    return np.random.Generator(
        np.random.Philox(_Key(seed << 32 | epoch, index << 12 | view << 8 | purpose))
    )


class _Key(ISeedSequence):
    """Two 64-bit integers that Philox takes as its key."""

    def __init__(self, high: int, low: int):
        self.words = np.array([high, low], np.uint64)

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        return self.words
