"""What the worker can do with a model of any framework, and what the models have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError, shape_text

AT_ONCE = 1024  # rows of a forward pass


@dataclass(frozen=True)
class Problem:
    """What a model is to learn.

    Attributes:
        input_shape: of one row of X.
        classes: the number of classes; None for values.
        outputs: the number of values of a row; the number of classes of a classifier.
    """

    input_shape: tuple[int, ...]
    classes: int | None
    outputs: int


class Net(Protocol):
    """A model whose whole state, the optimizer's included, is in its checkpoints."""

    def initial(self, output: str) -> None:
        """Write the weights that the model was built with."""

    def train(
        self,
        checkpoint: str,
        output: str,
        X: NDArray[Any],
        y: NDArray[Any],
        seed: int,
        learning_rate: float | None = None,
    ) -> Mapping[str, float]:
        """Read a checkpoint, train it on one mini-batch, write it, and return the metrics.

        Args:
            checkpoint: the state to start from.
            output: where to write the new one, in the same format.
            X: [rows, *input_shape].
            y: class numbers [rows], or values [rows] or [rows, outputs].
            seed: the source of all randomness.
            learning_rate: of this step; None: the one in the checkpoint.

        Raises:
            CkptSurgeonError: the checkpoint is not this model's, or the result is not finite.
        """

    def outputs(self, checkpoint: str, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs]."""


def check_finite(metrics: Mapping[str, float], step: str = "this mini-batch") -> None:
    """Refuse a step whose loss is not a number, before anything is written."""
    wrong = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        hint = "a lower learning rate, clipped gradients or scaled inputs may help"
        raise RefusedError(f"training on {step} failed: {', '.join(wrong)}", hint=hint)


def chances(values: NDArray[Any], problem: Problem, logits: bool) -> NDArray[np.float64]:
    """Return a model's outputs as the ring counts them: probabilities of each class, or values.

    Args:
        values: what the model returned for some rows; a classifier of two classes may return the second's alone.
        problem: what it learns.
        logits: whether a classifier's outputs are logits.

    Raises:
        RefusedError: the shape is wrong, or there are no probabilities.
    """
    found: NDArray[np.float64] = np.asarray(values, np.float64)
    if problem.classes is None:
        if found.ndim == 1:
            found = found[:, None]
        _check_shape(found, (problem.outputs,))
        return found
    if problem.classes == 2 and found.shape[1:] in ((), (1,)):
        found = found.reshape(-1, 1)
        if logits:
            found = 1 / (1 + np.exp(-found))
        found, logits = np.concatenate([1 - found, found], axis=1), False
    _check_shape(found, (problem.classes,))
    if logits:
        found = np.exp(found - found.max(axis=1, keepdims=True))
        found = found / found.sum(axis=1, keepdims=True)
    if len(found) and (found.min() < -1e-6 or np.abs(found.sum(axis=1) - 1).max() > 1e-3):
        what = "the model's outputs are not probabilities"
        raise RefusedError(what, expected="a softmax at the end, or a loss with from_logits=True")
    return found


def _check_shape(values: NDArray[Any], wanted: tuple[int, ...]) -> None:
    if values.shape[1:] != wanted:
        expected, found = (shape_text("rows", *shape) for shape in (wanted, values.shape[1:]))
        raise RefusedError("the model's outputs have the wrong shape", expected=expected, found=found)
