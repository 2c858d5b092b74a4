"""The forward pass of an skflow network in NumPy, without the wait for TensorFlow to start.

Such a net has hidden layers `dnn/layer{K}/Linear/*` with relu between, and the head `logistic_regression/*`
(softmax) or `linear_regression/*`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ... import formats
from ...checkpoint import Checkpoint
from ...errors import UnsupportedError
from ...schemes.skflow_names import CLASSIFIER, REGRESSOR, bias, head_bias, head_weights, matrix

Floats = NDArray[np.float64]

_AT_ONCE = 4096  # rows whose hidden values are in memory, and in the processor's cache


@dataclass(frozen=True)
class SkflowNet:
    """The weights of an skflow net.

    Attributes:
        layers: (matrix [in, out], bias [out]) of each hidden layer and, last, of the head; float64.
        classifier: whether the head is a softmax.
    """

    layers: Sequence[tuple[Floats, Floats]]
    classifier: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The features that it takes and the outputs that it has."""
        return self.layers[0][0].shape[0], self.layers[-1][0].shape[1]

    def outputs(self, X: NDArray[np.float32]) -> Floats:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs].

        Rows with more than one axis are flattened, as the built-in trainer does.
        """
        outputs = np.empty((len(X), self.shape[1]))
        for start in range(0, len(X), _AT_ONCE):
            outputs[start : start + _AT_ONCE] = self._outputs(X[start : start + _AT_ONCE].reshape(-1, self.shape[0]))
        return outputs

    def _outputs(self, X: NDArray[np.float32]) -> Floats:
        values: Floats = X.astype(np.float64)
        for number, (kernel, offset) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ kernel + offset
        if not self.classifier:
            return values
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        chances: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
        return chances


def load(path: str) -> SkflowNet:
    """Read the net in a checkpoint.

    Raises:
        UnsupportedError: the checkpoint holds another kind of model.
        CkptSurgeonError: it cannot be read.
    """
    with formats.open(path) as checkpoint:
        names = []
        for number in itertools.count():
            if matrix(number) not in checkpoint.variables:
                break
            names.append((matrix(number), bias(number)))
        heads = [head for head in (CLASSIFIER, REGRESSOR) if head_weights(head) in checkpoint.variables]
        if not names or len(heads) != 1:
            raise UnsupportedError("is not a network of dnn/layer{K}/Linear layers and one head", path=path)
        names.append((head_weights(heads[0]), head_bias(heads[0])))
        layers = [(_read(checkpoint, kernel), _read(checkpoint, offset)) for kernel, offset in names]
    width = layers[0][0].shape[0] if layers[0][0].ndim == 2 else 0
    for (name, _), (kernel, offset) in zip(names, layers, strict=True):
        if kernel.ndim != 2 or kernel.shape[0] != width or offset.shape != kernel.shape[1:]:
            raise UnsupportedError(f"{name} does not fit the layer before it", path=path)
        width = kernel.shape[1]
    return SkflowNet(layers, heads[0] == CLASSIFIER)


def _read(checkpoint: Checkpoint, name: str) -> Floats:
    return np.asarray(checkpoint.read(name), dtype=np.float64)
