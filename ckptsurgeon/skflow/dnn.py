"""TensorFlowDNNClassifier and TensorFlowDNNRegressor, and access to their layers.

Layers are numbered from 0. Getters return copies; a change takes effect when it is set:

    biases = classifier.get_layer_biases(1)
    biases[3] = 2
    classifier.set_layer_biases(1, biases)

Their names, and those of their parameters, are those of the patch of 2016 that added them to skflow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ..schemes.skflow_names import CLASSIFIER, REGRESSOR, bias, head_bias, head_weights, matrix
from . import models
from .errors import EstimatorError
from .graph.model_graph import CLIP_GRADIENTS
from .graph.model_session import NUM_CORES
from .heads import HEADS, HeadEstimator
from .validation import is_whole


class _TensorFlowDNN(HeadEstimator):
    """Fully connected hidden layers with relu, and a head."""

    hidden_units: Sequence[int]
    dropout: float | None

    def _model(self) -> models.ModelFunction:
        keep_prob = 1.0 - float(self.dropout) if self.dropout else None
        return models.DnnModel(tuple(map(int, self.hidden_units)), HEADS[self._head], keep_prob)

    @property
    def num_hidden_layers(self) -> int:
        """The number of hidden layers of the fitted model, or of the model that `fit` would build."""
        if self.__sklearn_is_fitted__():
            return len(self._net.trainable) // 2 - 1  # pairs of weights and biases; the last is the head's
        return len(self.hidden_units)

    @property
    def weights_(self) -> list[NDArray[np.float32]]:
        """The weights of each hidden layer, [in, out], then those of the head."""
        return self._layers(matrix, head_weights)

    @property
    def bias_(self) -> list[NDArray[np.float32]]:
        """The biases of each hidden layer, [out], then those of the head."""
        return self._layers(bias, head_bias)

    def get_layer_weights(self, layer_num: int) -> NDArray[np.float32]:
        """Return a copy of the weights of a hidden layer, [in, out].

        Args:
            layer_num: 0 … num_hidden_layers-1.

        Raises:
            NotFittedError: before the first `fit`.
            EstimatorError: there is no such layer.
        """
        number = self._layer(layer_num)
        return self._net.read([matrix(number)])[0]

    def get_layer_biases(self, layer_num: int) -> NDArray[np.float32]:
        """Return a copy of the biases of a hidden layer, [out]; raises as `get_layer_weights`."""
        number = self._layer(layer_num)
        return self._net.read([bias(number)])[0]

    def get_layer_params(self, layer_num: int) -> list[NDArray[np.float32]]:
        """Return copies of the weights and the biases of a hidden layer, a list; raises as `get_layer_weights`."""
        number = self._layer(layer_num)
        return self._net.read([matrix(number), bias(number)])

    def set_layer_weights(self, layer_num: int, weights_values: ArrayLike) -> None:
        """Set the weights of a hidden layer; the optimizer's slots stay as they are.

        Args:
            layer_num: 0 … num_hidden_layers-1.
            weights_values: numbers, [in, out].

        Raises:
            NotFittedError: before the first `fit`.
            EstimatorError: there is no such layer, or the values have the wrong shape.
        """
        self._set({matrix(self._layer(layer_num)): weights_values})

    def set_layer_biases(self, layer_num: int, biases_values: ArrayLike) -> None:
        """Set the biases of a hidden layer, [out]; raises as `set_layer_weights`."""
        self._set({bias(self._layer(layer_num)): biases_values})

    def set_layer_params(self, layer_num: int, params_values: Sequence[ArrayLike]) -> None:
        """Set both weights and biases of a hidden layer, or neither; raises as `set_layer_weights`.

        Args:
            layer_num: 0 … num_hidden_layers-1.
            params_values: weights and biases, as `get_layer_params` returns them.
        """
        number = self._layer(layer_num)
        is_sequence = isinstance(params_values, (tuple, list))
        if not is_sequence or len(params_values) != 2:
            found = f"{len(params_values)} items" if is_sequence else type(params_values).__name__
            raise EstimatorError(f"layer {number} cannot be set", expected="a pair, weights and biases", found=found)
        self._set({matrix(number): params_values[0], bias(number): params_values[1]})

    def extract_num_hidden_layers(self) -> int:
        """Return `num_hidden_layers`, under the name that the patch of skflow gave it."""
        return self.num_hidden_layers

    def create_updaters(self) -> None:
        """Do nothing but warn: setters need no preparation. The patch of skflow made ops that assign here."""
        warnings.warn("create_updaters() does nothing: layers can be set without it", stacklevel=2)

    def _layers(self, name: Callable[[int], str], head: Callable[[str], str]) -> list[NDArray[np.float32]]:
        check_is_fitted(self)
        return self._net.read([*map(name, range(self.num_hidden_layers)), head(self._head)])

    def _layer(self, layer_num: int) -> int:
        check_is_fitted(self)
        if not is_whole(layer_num, 0) or layer_num >= self.num_hidden_layers:
            last = self.num_hidden_layers - 1
            expected = f"0 to {last}" if last >= 0 else "none: there are no hidden layers"
            raise EstimatorError("there is no such hidden layer", expected=expected, found=repr(layer_num))
        return int(layer_num)

    def _set(self, values: dict[str, ArrayLike]) -> None:
        """Check all values, then set all of them."""
        checked = {}
        for name, value in values.items():
            expected = list(self._net.shapes[name])
            try:
                array = np.asarray(value)
            except ValueError:
                raise EstimatorError(
                    f"{name} cannot be set", expected=expected, found="rows of different lengths"
                ) from None
            if array.dtype.kind not in "fiub" or list(array.shape) != expected:
                kind = "" if array.dtype.kind in "fiub" else f" of {array.dtype}"
                raise EstimatorError(f"{name} cannot be set", expected=expected, found=f"{list(array.shape)}{kind}")
            checked[name] = array.astype(np.float32)
        self._net.write(checked)


class TensorFlowDNNClassifier(ClassifierMixin, _TensorFlowDNN):  # type: ignore[misc]
    """A classifier: hidden layers with relu and a softmax head, trained on the mean cross-entropy.

    Args:
        hidden_units: the width of each hidden layer.
        n_classes: the number of classes, at least 2; None for the number of labels in y.
        dropout: the share of each hidden layer's outputs that is set to 0 during training; None for no dropout.

    The other parameters are those of TensorFlowEstimator.

    Attributes:
        classes_: the labels, [classes]: 0 … n_classes-1 if `n_classes` is given and y contains only such numbers,
            otherwise the labels in y.
        n_features_in_: columns of X.
    """

    _head = CLASSIFIER

    def __init__(
        self,
        hidden_units: Sequence[int],
        n_classes: int | None = None,
        batch_size: int = 32,
        steps: int = 200,
        optimizer: str | Callable[..., Any] = "SGD",
        learning_rate: float | Callable[[Any], Any] = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        class_weight: Sequence[float] | Mapping[Any, float] | None = None,
        tf_random_seed: int = 42,
        continue_training: bool = False,
        num_cores: int = NUM_CORES,
        verbose: int = 1,
        max_to_keep: int | None = 5,
        dropout: float | None = None,
    ) -> None:
        self.hidden_units = hidden_units
        self.dropout = dropout
        super().__init__(
            None, n_classes, batch_size, steps, optimizer, learning_rate, clip_gradients, class_weight, tf_random_seed,
            continue_training, num_cores, verbose, max_to_keep,
        )  # fmt: skip


class TensorFlowDNNRegressor(RegressorMixin, _TensorFlowDNN):  # type: ignore[misc]
    """A regressor: hidden layers with relu and a linear head, trained on the mean squared error.

    Args:
        hidden_units: the width of each hidden layer.
        n_classes: 0 or 1; exists, as in skflow, because all estimators have it.
        dropout: the share of each hidden layer's outputs that is set to 0 during training; None for no dropout.

    The other parameters are those of TensorFlowEstimator.

    Attributes:
        n_features_in_: columns of X.
    """

    _head = REGRESSOR

    def __init__(
        self,
        hidden_units: Sequence[int],
        n_classes: int = 0,
        batch_size: int = 32,
        steps: int = 200,
        optimizer: str | Callable[..., Any] = "SGD",
        learning_rate: float | Callable[[Any], Any] = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        tf_random_seed: int = 42,
        continue_training: bool = False,
        num_cores: int = NUM_CORES,
        verbose: int = 1,
        max_to_keep: int | None = 5,
        dropout: float | None = None,
    ) -> None:
        self.hidden_units = hidden_units
        self.dropout = dropout
        super().__init__(
            None, n_classes, batch_size, steps, optimizer, learning_rate, clip_gradients, None, tf_random_seed,
            continue_training, num_cores, verbose, max_to_keep,
        )  # fmt: skip
