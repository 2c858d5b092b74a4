"""The built-in trainer of a ring: from a checkpoint to a checkpoint, one mini-batch at a time."""
