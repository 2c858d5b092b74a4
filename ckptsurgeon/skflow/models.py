"""skflow's model functions, which take the placeholders X and y and return (predictions, loss).

Based on `skflow/models.py` and `skflow/ops/losses_ops.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..schemes.skflow_names import CLASSIFIER, HEAD_BIAS, HEAD_WEIGHTS, REGRESSOR
from .graph.quiet_tensorflow import tf, v1
from .ops import CLASS_WEIGHT, LOSS_WEIGHT, Tensor, biases, dnn, graph_constant, weights

__all__ = ["dnn", "get_dnn_model", "linear_regression", "logistic_regression"]

ModelFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def logistic_regression(X: Tensor, y: Tensor, class_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax head: `logistic_regression/weights` and `/bias`, mean cross-entropy.

    Args:
        X: float32 [rows, features].
        y: the classes one-hot, float32 [rows, classes].
        class_weight: factors of the logits, [classes]; None for the estimator's.

    Returns:
        The probabilities, float32 [rows, classes], and the loss, float32 [].
    """
    if class_weight is None:
        class_weight = graph_constant(CLASS_WEIGHT)
    loss_weight = graph_constant(LOSS_WEIGHT)
    with v1.variable_scope(CLASSIFIER):
        classes = int(y.shape[-1])
        logits = v1.nn.xw_plus_b(X, weights(HEAD_WEIGHTS, X, classes), biases(HEAD_BIAS, classes))
        if class_weight is not None:
            logits *= class_weight
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits)
        if loss_weight is not None:
            losses *= tf.linalg.matvec(y, loss_weight)
        return tf.nn.softmax(logits), tf.reduce_mean(losses)


def linear_regression(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Linear head: `linear_regression/weights` and `/bias`, mean squared error.

    Args:
        X: float32 [rows, features].
        y: the values, float32 [rows] or [rows, outputs].

    Returns:
        The predictions, float32 [rows, outputs], and the loss, float32 [].
    """
    with v1.variable_scope(REGRESSOR):
        if len(y.shape) == 1:
            y = tf.reshape(y, [-1, 1])
        outputs = int(y.shape[-1])
        predictions = v1.nn.xw_plus_b(X, weights(HEAD_WEIGHTS, X, outputs), biases(HEAD_BIAS, outputs))
        return predictions, tf.reduce_mean(tf.square(y - predictions))


@dataclass(frozen=True)
class DnnModel:
    """The model function of hidden layers and a head. Equal instances build equal graphs; instances can be pickled."""

    hidden_units: tuple[int, ...]
    head: ModelFunction
    keep_prob: float | None = None

    def __call__(self, X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(dnn(X, self.hidden_units, keep_prob=self.keep_prob), y)


def get_dnn_model(hidden_units: Sequence[int], target_predictor_fn: ModelFunction) -> ModelFunction:
    """Return the model function of `dnn` followed by a head, `logistic_regression` or `linear_regression`."""
    return DnnModel(tuple(int(units) for units in hidden_units), target_predictor_fn)


def is_pure(model_fn: ModelFunction) -> bool:
    """Tell whether a model function always builds the same graph, which is true of skflow's own."""
    head = model_fn.head if isinstance(model_fn, DnnModel) else model_fn
    return head in (logistic_regression, linear_regression)
