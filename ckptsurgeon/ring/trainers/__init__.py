"""Trainers: the interface that the driver uses, and the engines that implement it."""
