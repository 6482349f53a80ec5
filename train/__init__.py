"""Stage 2: images and masks -> weights."""

import data  # noqa: F401 - chooses where compiled kernels are kept
