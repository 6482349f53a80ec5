"""Stage 1: images -> saliency masks in HDF5 shards."""
