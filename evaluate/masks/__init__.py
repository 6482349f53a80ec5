"""Accuracy of masks, and pictures of them."""
