"""Networks as saliency estimators: their modules, weights, and batches on a device."""
