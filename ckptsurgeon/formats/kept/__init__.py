"""Versions of checkpoints that operations in place replaced and `undo` brings back; imported only when asked for."""
