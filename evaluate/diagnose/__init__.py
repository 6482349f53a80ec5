"""Does the network look at the object? Heat maps of its decisions against masks, and what wrong
neighbours share."""
