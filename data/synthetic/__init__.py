"""The embedded data set: objects on backgrounds, with true masks."""
