"""The table of training data that all readers return."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """Rows with a target.

    Attributes:
        X: the features, float32 [rows, features], or with more axes, such as images [rows, height, width, channels];
            read-only. Many rows are mapped from a file instead of loaded.
        y: class indices, int64 [rows], or values, float32 [rows] or [rows, outputs]; read-only.
        classes: the names of the classes, sorted as text; None for a regression target.
        features: the names of the features; empty if the file has none, or X more than two axes.
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    classes: tuple[str, ...] | None
    features: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int | None:
        """The number of classes; None for a regression target."""
        return None if self.classes is None else len(self.classes)

    @property
    def outputs(self) -> int:
        """The number of outputs of a model for it: of classes, or of values per row."""
        return self.n_classes or math.prod(self.y.shape[1:])

    def take(self, rows: NDArray[np.int64] | slice) -> Table:
        """Return some of the rows: a copy, or a view for a slice."""
        return Table(self.X[rows], self.y[rows], self.classes, self.features)
