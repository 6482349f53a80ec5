"""Accuracy on other backgrounds than those of the training images."""
