"""One training step from checkpoint to checkpoint, for the worker and `train`.

All state is in the checkpoint. Every step reads it completely, trains the network that its variables describe, and
writes it completely, with the same names, shapes and dtypes. Variables outside the network are copied unchanged, and so
is `learning_rate`, whose value the step uses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import formats
from ...errors import RefusedError, files, shape_text
from ...schemes.skflow_names import CLASSIFIER, GLOBAL_STEP, LEARNING_RATE, keep_prob
from ..checkpoints import architecture
from ..checkpoints.architecture import Architecture, Values

if TYPE_CHECKING:
    from ..graph.step_function import StepFunction


class CheckpointTrainer:
    """Trains checkpoints one mini-batch at a time; keeps the graph of the last architecture for the next step.

    Args:
        optimizer: a key of `skflow_names.SLOTS`; None for the one whose slots the checkpoint has.
        learning_rate: for checkpoints without such a variable.
        override: use `learning_rate` for all checkpoints, and store it in the output.
    """

    def __init__(self, optimizer: str | None, learning_rate: float, override: bool = False) -> None:
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._override = override
        self._step: tuple[Architecture, StepFunction] | None = None

    def architecture(self, checkpoint: str) -> Architecture:
        """Return the network that `train` would train, from the checkpoint's metadata.

        Raises:
            CkptSurgeonError: there is no checkpoint, or it has no network that the optimizer can train.
        """
        with files(checkpoint), formats.open(checkpoint) as opened:
            return architecture.of(opened.variables, self._optimizer)

    def train(
        self,
        checkpoint: str,
        output: str,
        X: NDArray[Any],
        y: NDArray[Any],
        sync: bool = False,
        learning_rate: float | None = None,
    ) -> dict[str, float]:
        """Train one mini-batch.

        Args:
            checkpoint: the checkpoint to start from; any spelling of its path.
            output: prefix of the checkpoint to write; an existing one is replaced.
            X: numbers, [rows, features]; rows with more axes are flattened.
            y: class numbers, [rows]; or values, [rows] or [rows, outputs].
            sync: wait until the output is on disk.
            learning_rate: use this one, and store it in the output.

        Returns:
            The metrics: `loss`, the mean over the rows before the update.

        Raises:
            CkptSurgeonError: the checkpoint or the rows cannot be used, or the result would not be finite; nothing
                was written.
        """
        with files(checkpoint), formats.open(checkpoint) as opened:
            found = architecture.of(opened.variables, self._optimizer)
            if keep_prob(0) in opened:
                what = "was trained with dropout, which the built-in trainer does not support"
                raise RefusedError(what, found=keep_prob(0), hint="ckptsurgeon drop removes such variables")
            values = {name: opened.read(name) for name in opened}
        X, y = rows_for(found, X, y)
        rate = values.get(LEARNING_RATE)
        if learning_rate is not None:
            rate = np.array(learning_rate, np.float32)
        elif rate is None or self._override:
            rate = np.array(self._learning_rate, np.float32)
        loss, changed = self._step_for(found)(values, float(rate), X, y)
        values |= changed
        if LEARNING_RATE in values:
            values[LEARNING_RATE] = rate
        if GLOBAL_STEP in values:
            values[GLOBAL_STEP] = np.add(values[GLOBAL_STEP], 1, dtype=values[GLOBAL_STEP].dtype)
        formats.write(output, values, sync=sync)
        return {"loss": loss}

    def _step_for(self, found: Architecture) -> StepFunction:
        if self._step is None or self._step[0] != found:
            from ..graph.step_function import StepFunction

            self._step = found, StepFunction(found)
        return self._step[1]


def write_initial(net: Architecture, output: str, seed: int, learning_rate: float) -> None:
    """Write the checkpoint of an untrained network; does not need TensorFlow."""
    values: Values = net.initial(seed, learning_rate)
    formats.write(output, values, sync=False)


def rows_for(net: Architecture, X: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Check rows against a network and convert them to its input dtypes and shapes; rows with more axes are flattened.

    Returns:
        X float32 [rows, features] and y float32 [rows, outputs], one-hot for a classifier.

    Raises:
        RefusedError: they do not match the network.
    """
    if X.ndim < 2 or X.dtype.kind not in "fiub" or math.prod(X.shape[1:]) != net.features or not len(X):
        expected = f"numbers [rows,{net.features}], at least 1 row"
        raise RefusedError("the features X do not fit the network", expected=expected, found=_kind(X))
    if net.head == CLASSIFIER:
        if y.shape != (len(X),) or y.dtype.kind not in "iu":
            expected = f"class numbers [{len(X)}]"
            raise RefusedError("the target y does not match the network", expected=expected, found=_kind(y))
        if y.min() < 0 or y.max() >= net.outputs:
            wrong = y[(y < 0) | (y >= net.outputs)][0]
            expected = f"class numbers from 0 to {net.outputs - 1}"
            raise RefusedError("the target y does not match the network", expected=expected, found=int(wrong))
        target = np.zeros((len(y), net.outputs), np.float32)
        target[np.arange(len(y)), y] = 1.0
    else:
        shapes = [(len(X), net.outputs)] + [(len(X),)] * (net.outputs == 1)
        if y.shape not in shapes or y.dtype.kind not in "fiub":
            expected = f"numbers [{len(X)},{net.outputs}]"
            raise RefusedError("the target y does not match the network", expected=expected, found=_kind(y))
        with np.errstate(over="ignore"):
            target = y.astype(np.float32).reshape(len(X), net.outputs)
    with np.errstate(over="ignore"):
        X = np.ascontiguousarray(X, np.float32).reshape(len(X), net.features)
    for name, each in (("array X", X), ("array y", target)):
        if not np.isfinite(each).all():
            raise RefusedError(f"the {name} contains values that are not finite as float32")
    return X, target


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype} {shape_text(*values.shape)}"
