"""Stage 3: weights -> numbers."""
