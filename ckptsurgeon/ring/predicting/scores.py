"""Scores of one voter on rows that come in parts: sums, so that memory does not depend on the number of rows.

Classifiers: accuracy; `nll`, the mean negative log-likelihood of the true class; and `ece`, the expected calibration
error (Guo et al. 2017, https://arxiv.org/abs/1706.04599). Rows are sorted into 15 bins by their largest probability.
`ece` is the mean over all rows of |accuracy - mean largest probability| of their bin. 0 is perfect: of the rows on
which the model is 80 % sure, 80 % are right.

Regressors: r2 and the mean squared error, over all outputs together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ... import data
from .skflow_net import Floats
from .voting import loss

_BINS = 15  # as in the paper


class Score:
    """Scores of one voter, added up part by part.

    Args:
        classifier: whether its outputs are probabilities.
    """

    def __init__(self, classifier: bool) -> None:
        self._classifier = classifier
        self._rows = self._right = self._numbers = 0
        self._loss = self._error = 0.0
        self._bins = np.zeros(_BINS)  # of each bin, the sum of correctness - confidence
        self._first: Floats | None = None  # subtracted from targets before squares are summed: the sums stay exact
        self._sum: Floats | float = 0.0
        self._squares: Floats | float = 0.0

    def add(self, outputs: Floats, part: data.Table) -> None:
        """Add the outputs for some rows."""
        self._rows += len(outputs)
        if self._classifier:
            right = outputs.argmax(axis=1) == part.y
            confidence = outputs.max(axis=1)
            bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)
            self._right += int(np.count_nonzero(right))
            self._loss += loss(outputs, part.y, part.classes) * len(outputs)
            self._bins += np.bincount(bins, right - confidence, _BINS)
            return
        target = part.y.astype(np.float64).reshape(outputs.shape)
        self._numbers += target.size
        self._error += float(np.square(outputs - target).sum())
        self._first = target[0] if self._first is None else self._first
        self._sum = self._sum + (target - self._first).sum(axis=0)
        self._squares = self._squares + np.square(target - self._first).sum(axis=0)

    def values(self) -> dict[str, float | None]:
        """Return the scores by name, the best first that voters are compared by; None if there are no rows."""
        if not self._rows:
            return dict.fromkeys(("accuracy", "nll", "ece") if self._classifier else ("r2", "mse"))
        if self._classifier:
            calibration = float(np.abs(self._bins).sum()) / self._rows
            return {"accuracy": self._right / self._rows, "nll": self._loss / self._rows, "ece": calibration}
        spread = float(np.sum(self._squares - np.square(self._sum) / self._rows)) / self._numbers
        error = self._error / self._numbers
        return {"r2": 1 - error / spread if spread > 0 else None, "mse": error}

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better: accuracy and then likelihood, or the negative squared error."""
        if self._classifier:
            return self._right, -self._loss
        return -self._error, 0.0


def differing(votes: Sequence[Floats]) -> int:
    """Return the number of rows on which not all voters name the same class.

    Args:
        votes: the probabilities of each voter, [rows, classes].
    """
    named: NDArray[np.int64] = np.stack([vote.argmax(axis=1) for vote in votes])
    return int(np.count_nonzero((named != named[0]).any(axis=0)))
