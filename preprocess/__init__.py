"""Stage 1: images -> saliency masks in HDF5 shards."""

import data  # noqa: F401 - chooses where compiled kernels are kept
