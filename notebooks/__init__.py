"""The four notebooks and the helpers that only they use."""
