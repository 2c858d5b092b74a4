"""skflow's layers: functions of tensors that create variables with skflow's names.

Facts from `skflow/ops/dnn_ops.py`, `skflow/ops/dropout_ops.py` and TensorFlow 0.7's `rnn_cell.linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..schemes.skflow_names import BIAS, KEEP_PROB, LAYERS_SCOPE, LINEAR_SCOPE, MATRIX, layer_scope
from .checkpoints.architecture import unit_limit
from .graph.quiet_tensorflow import tf, v1

Tensor = Any  # TensorFlow comes without types

# The graph collection of keep probabilities, tensors that are fed with 1 outside training.
DROPOUTS = "dropouts"

# Tensors that pass an estimator's class weights to the model's head: factors of the logits, under skflow's name, and
# factors of the rows' losses, which is scikit-learn's meaning of the term.
CLASS_WEIGHT = "class_weight"
LOSS_WEIGHT = "loss_weight"


def uniform_unit_scaling(shape: Sequence[int], dtype: Any = None, partition_info: object = None) -> Tensor:
    """Draw from ±sqrt(3 / fan_in), the default initializer of TensorFlow 0.7 (seeded by the graph's seed)."""
    limit = unit_limit(shape)
    return v1.random_uniform(shape, -limit, limit, dtype=dtype or tf.float32)


def weights(name: str, X: Tensor, outputs: int) -> Tensor:
    """Create the weights of a fully connected layer on X, [columns of X, outputs]."""
    return v1.get_variable(name, [int(X.shape[1]), outputs], tf.float32, initializer=uniform_unit_scaling)


def biases(name: str, outputs: int) -> Tensor:
    """Create the biases of a fully connected layer, [outputs]."""
    return v1.get_variable(name, [outputs], tf.float32, initializer=v1.zeros_initializer())


def dnn(
    tensor_in: Tensor,
    hidden_units: Sequence[int],
    activation: Callable[[Tensor], Tensor] | None = tf.nn.relu,
    keep_prob: float | Tensor | None = None,
) -> Tensor:
    """Stack fully connected layers: `dnn/layer{K}/Linear/Matrix` and `/Bias`, K from 0.

    Args:
        tensor_in: float32 [rows, features].
        hidden_units: the width of each layer; if empty, `tensor_in` is returned.
        activation: applied after each layer; None for no activation.
        keep_prob: the share of each layer's outputs that `dropout` keeps during training; None for all.

    Returns:
        float32 [rows, width of the last layer].
    """
    with v1.variable_scope(LAYERS_SCOPE):
        for number, units in enumerate(hidden_units):
            with v1.variable_scope(layer_scope(number)):
                with v1.variable_scope(LINEAR_SCOPE):
                    matrix, bias = weights(MATRIX, tensor_in, units), biases(BIAS, units)
                    tensor_in = v1.nn.xw_plus_b(tensor_in, matrix, bias)
                if activation:
                    tensor_in = activation(tensor_in)
                if keep_prob:
                    tensor_in = dropout(tensor_in, keep_prob)
    return tensor_in


def dropout(tensor_in: Tensor, prob: float | Tensor) -> Tensor:
    """Set random elements to 0 during training, and scale the others to keep the mean.

    The choice depends only on the graph's seed and the global step, so a restored model continues exactly as the
    saved one would have.

    Args:
        tensor_in: a tensor of any shape.
        prob: the share to keep. A number becomes the variable `prob` of the current scope, as in skflow.
    """
    graph = v1.get_default_graph()
    if isinstance(prob, (int, float)):
        prob = v1.get_variable(KEEP_PROB, [], initializer=v1.constant_initializer(float(prob)), trainable=False)
    keep = tf.identity(prob)
    number = len(graph.get_collection(DROPOUTS))
    graph.add_to_collection(DROPOUTS, keep)
    step = v1.train.get_global_step()
    if step is None:  # not inside an estimator
        draw = v1.random_uniform(tf.shape(tensor_in), dtype=tensor_in.dtype)
    else:
        seed = tf.stack([((graph.seed or 0) * 1009 + number) % 2**31, tf.cast(step, tf.int32)])
        draw = tf.random.stateless_uniform(tf.shape(tensor_in), seed, dtype=tensor_in.dtype)
    return tensor_in / keep * tf.floor(draw + keep)


def graph_constant(name: str) -> Tensor | None:
    """Return the tensor of this name in the default graph, or None."""
    try:
        return v1.get_default_graph().get_tensor_by_name(f"{name}:0")
    except KeyError:
        return None
