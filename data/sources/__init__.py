"""Where images come from: a folder, a tar, a tar of tars, a pack; lists of them; decoding."""
