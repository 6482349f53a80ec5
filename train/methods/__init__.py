"""Contrastive methods, one file each."""
