"""Trainers: the interface that the driver knows, and the engine that runs them as local processes."""
