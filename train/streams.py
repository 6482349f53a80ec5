"""Randomness that depends on what is drawn, not on who draws it.

Every draw of a view comes from (seed, epoch, index, view), so views do not depend on the number of workers, and
resuming in the middle of an epoch needs two integers. Pasting has a stream of its own: two runs that differ only in
DiLo see the same crops and colours.
"""

from __future__ import annotations

import numpy as np

VIEW, PASTE, ORDER, SHUFFLE, WEIGHTS, CONTROL, RECROP = range(7)  # purposes: streams that never overlap
NOISE = 16  # a method's own purposes are numbered from 16


def stream(purpose: int, seed: int, epoch: int = 0, index: int = 0, view: int = 0) -> np.random.Generator:
    """A generator of its own for these integers (0 <= seed, epoch < 2^32; index < 2^52; view < 16; purpose < 256).

    Philox is keyed directly: it is counter-based and needs no warm-up (9 us; a seed sequence takes 13).
    """
    return np.random.Generator(np.random.Philox(key=[(seed << 32) | epoch, (index << 12) | (view << 8) | purpose]))
