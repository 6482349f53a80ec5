"""Stage 2: images and masks -> weights."""
