"""The models of skflow as TensorFlow graphs: functions of tensors that create variables under skflow's names.

A model function takes the placeholders X and y and returns (predictions, loss). Facts from `skflow/models.py`,
`skflow/ops/dnn_ops.py` and TensorFlow 0.7's `rnn_cell.linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .architecture import unit_limit
from .runtime import tf, v1

Tensor = Any  # TensorFlow comes without types
ModelFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def uniform_unit_scaling(shape: Sequence[int], dtype: Any = None, partition_info: object = None) -> Tensor:
    """Draw from ±sqrt(3 / fan_in), the default initializer of TensorFlow 0.7 (seeded by the graph's seed)."""
    limit = unit_limit(shape)
    return v1.random_uniform(shape, -limit, limit, dtype=dtype or tf.float32)


def _weights(name: str, X: Tensor, outputs: int) -> Tensor:
    return v1.get_variable(name, [int(X.shape[1]), outputs], tf.float32, initializer=uniform_unit_scaling)


def _biases(name: str, outputs: int) -> Tensor:
    return v1.get_variable(name, [outputs], tf.float32, initializer=v1.zeros_initializer())


def dnn(X: Tensor, hidden_units: Sequence[int], activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Stack fully connected layers: `dnn/layer{K}/Linear/Matrix` and `/Bias`, K from 0.

    Args:
        X: float32 [rows, features].
        hidden_units: the width of each layer; none at all hands X on.
        activation: applied after each layer; relu unless told otherwise.

    Returns:
        float32 [rows, width of the last layer].
    """
    activation = activation or tf.nn.relu
    with v1.variable_scope("dnn"):
        for number, units in enumerate(hidden_units):
            with v1.variable_scope(f"layer{number}"):
                with v1.variable_scope("Linear"):
                    X = v1.nn.xw_plus_b(X, _weights("Matrix", X, units), _biases("Bias", units))
                X = activation(X)
    return X


def logistic_regression(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax head: `logistic_regression/weights` and `/bias`, mean cross-entropy.

    Args:
        X: float32 [rows, features].
        y: the classes one-hot, float32 [rows, classes].

    Returns:
        The probabilities, float32 [rows, classes], and the loss, float32 [].
    """
    with v1.variable_scope("logistic_regression"):
        classes = int(y.shape[-1])
        logits = v1.nn.xw_plus_b(X, _weights("weights", X, classes), _biases("bias", classes))
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return tf.nn.softmax(logits), tf.reduce_mean(losses)


def linear_regression(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Linear head: `linear_regression/weights` and `/bias`, mean squared error.

    Args:
        X: float32 [rows, features].
        y: the values, float32 [rows] or [rows, outputs].

    Returns:
        The predictions, float32 [rows, outputs], and the loss, float32 [].
    """
    with v1.variable_scope("linear_regression"):
        if len(y.shape) == 1:
            y = tf.reshape(y, [-1, 1])
        outputs = int(y.shape[-1])
        predictions = v1.nn.xw_plus_b(X, _weights("weights", X, outputs), _biases("bias", outputs))
        return predictions, tf.reduce_mean(tf.square(y - predictions))


def get_dnn_model(hidden_units: Sequence[int], target_predictor_fn: ModelFunction) -> ModelFunction:
    """Return the model function of `dnn` with a head on it, `logistic_regression` or `linear_regression`."""

    def dnn_estimator(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return target_predictor_fn(dnn(X, hidden_units), y)

    return dnn_estimator
