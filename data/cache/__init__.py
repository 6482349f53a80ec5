"""The mask cache: its shards, its index, its reader."""
