"""What the batch stage and the trainer share: images, masks on disk, datasets."""

from data.compiled import choose_cache

choose_cache()
