"""Rows with a target, however many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """Rows with a target.

    Attributes:
        X: the features, float32 [rows, features]; read-only. Many rows are mapped from a file, not held in memory.
        y: class indices, int64 [rows], or values, float32 [rows] or [rows, outputs]; as X.
        classes: the names of the classes, sorted as text; None for a regression target.
        features: the names of the features; empty where the file holds none.
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    classes: tuple[str, ...] | None
    features: tuple[str, ...] = ()

    def take(self, rows: NDArray[np.int64] | slice) -> Table:
        """Some of the rows: a copy, or with a slice, a view."""
        return Table(self.X[rows], self.y[rows], self.classes, self.features)
