"""A model and its optimizer as a TensorFlow graph, without values; `ModelSession` runs it.

The graph has skflow's variables: `global_step` (int32), the model's, `learning_rate` (float32) and the optimizer's
slots. This module changes one piece of TensorFlow's global state: it turns on op determinism, because otherwise the
same seed may give different weights. It applies to the whole process, where random ops then require a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ...schemes.skflow_names import GLOBAL_STEP, LEARNING_RATE
from ..errors import EstimatorError
from ..models import ModelFunction, is_pure
from ..ops import CLASS_WEIGHT, DROPOUTS, LOSS_WEIGHT, Tensor
from .quiet_tensorflow import quiet, tf, v1

Optimizer = str | Callable[..., Any]
Rate = float | Callable[[Tensor], Tensor]

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": v1.train.GradientDescentOptimizer,
    "Adagrad": v1.train.AdagradOptimizer,
    "Adam": v1.train.AdamOptimizer,
    "Momentum": lambda rate: v1.train.MomentumOptimizer(rate, momentum=0.9),
}
CLIP_GRADIENTS = 5.0  # global norm, always on in skflow


class ModelGraph:
    """A model, its optimizer, and the ops that read and write its variables.

    Attributes:
        graph: the graph.
        X: placeholder of the features, float32 [rows, features].
        y: placeholder of the target.
        predictions: tensor of the model's predictions.
        loss: tensor of the mean loss, [].
        train_op: one step of the optimizer.
        initializer: op that sets all variables to their initial values.
        all_finite: tensor, whether all weights are finite, [].
        dropouts: tensors of keep probabilities, to be fed with 1 outside training.
        summaries: tensors of serialized summaries, for TensorBoard.
        variables: name -> TensorFlow variable, in creation order.
        shapes: name -> the shape of the variable.
        trainable: names of the variables that the optimizer updates from gradients.
        inputs: name -> placeholder of the variable's new value.
        assigns: name -> op that assigns the placeholder to the variable.
        reads: name -> tensor of the variable's value.

    Args:
        model_fn: returns (predictions, loss) for X and y.
        features: columns of X.
        target: the shape of y per row: (classes,) for one-hot classes, () or (outputs,) for values.
        optimizer: a key of OPTIMIZERS, or a function from a learning rate to a tf.compat.v1.train.Optimizer.
        learning_rate: a number, stored in the variable `learning_rate`, or a function of the tensor of global_step.
        clip_gradients: the largest global norm of the gradients; 0 for no limit.
        seed: of the random ops in the graph.
        class_weight: factor of each class's logit.
        loss_weight: factor of the losses of each class's rows.
    """

    def __init__(
        self,
        model_fn: ModelFunction,
        features: int,
        target: tuple[int, ...],
        *,
        optimizer: Optimizer = "SGD",
        learning_rate: Rate = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        seed: int = 42,
        class_weight: tuple[float, ...] | None = None,
        loss_weight: tuple[float, ...] | None = None,
    ) -> None:
        tf.config.experimental.enable_op_determinism()
        self.graph = tf.Graph()
        with self.graph.as_default(), quiet():
            v1.set_random_seed(seed)
            v1.get_variable_scope().set_use_resource(True)
            step = _global_step()
            self.X = v1.placeholder(tf.float32, [None, features], "input")
            self.y = v1.placeholder(tf.float32, [None, *target], "output")
            for name, factors in ((CLASS_WEIGHT, class_weight), (LOSS_WEIGHT, loss_weight)):
                if factors is not None:
                    v1.constant(factors, tf.float32, name=name)
            self.predictions, self.loss = _pair(model_fn(self.X, self.y))
            rate: Any = learning_rate(step) if callable(learning_rate) else _learning_rate(learning_rate)
            self.train_op = _train_op(self.loss, rate, optimizer, clip_gradients, step)
            self.variables = {variable.op.name: variable for variable in v1.global_variables()}
            self.shapes = {name: tuple(variable.shape.as_list()) for name, variable in self.variables.items()}
            trained = v1.trainable_variables()
            self.trainable = [variable.op.name for variable in trained]
            self.inputs = {n: v1.placeholder(v.dtype.base_dtype, v.shape) for n, v in self.variables.items()}
            self.assigns = {n: v.assign(self.inputs[n], read_value=False) for n, v in self.variables.items()}
            self.reads = {name: tf.identity(v) for name, v in self.variables.items()}
            self.all_finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(v)) for v in trained]))
            self.initializer = v1.global_variables_initializer()
            self.dropouts = self.graph.get_collection(DROPOUTS)
            self.summaries = [*self.graph.get_collection(v1.GraphKeys.SUMMARIES), *self._own_summaries()]

    def _own_summaries(self) -> list[Tensor]:
        """Create summaries of the loss and all weights; raw ops keep the variables' names as tags."""
        loss = tf.raw_ops.ScalarSummary(tags="loss", values=self.loss)
        return [loss, *(tf.raw_ops.HistogramSummary(tag=n, values=self.reads[n]) for n in self.trainable)]


def graph_for(
    model_fn: ModelFunction, features: int, target: tuple[int, ...], optimizer: Optimizer, rate: Rate, **more: Any
) -> ModelGraph:
    """Return the graph of a model; graphs of skflow's own models are cached.

    Building a graph takes at least 0.1 s, longer than a short training, so clones, cross-validation folds and repeated
    `fit` calls share one. A shared graph is finalized. A user's model function is called every time, because what it
    builds may depend on anything.
    """
    if is_pure(model_fn) and isinstance(optimizer, str) and not callable(rate):
        return _shared(model_fn, features, target, optimizer, float(rate), **more)
    return ModelGraph(model_fn, features, target, optimizer=optimizer, learning_rate=rate, **more)


@lru_cache(maxsize=16)
def _shared(
    model_fn: ModelFunction, features: int, target: tuple[int, ...], optimizer: str, rate: float, **more: Any
) -> ModelGraph:
    made = ModelGraph(model_fn, features, target, optimizer=optimizer, learning_rate=rate, **more)
    made.graph.finalize()
    return made


def _global_step() -> Any:
    keys = [v1.GraphKeys.GLOBAL_VARIABLES, v1.GraphKeys.GLOBAL_STEP]
    zeros = v1.zeros_initializer()
    return v1.get_variable(GLOBAL_STEP, [], tf.int32, initializer=zeros, trainable=False, collections=keys)


def _learning_rate(value: float) -> Any:
    return v1.get_variable(LEARNING_RATE, [], initializer=v1.constant_initializer(value), trainable=False)


def _pair(made: Any) -> tuple[Tensor, Tensor]:
    """Check the return value of a model function."""
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise EstimatorError(
            "model_fn returned an unexpected value", expected="(predictions, loss)", found=type(made).__name__
        )
    predictions, loss = made
    if loss.shape.rank != 0:
        raise EstimatorError("the loss of model_fn is not a scalar", expected="[]", found=loss.shape)
    return predictions, loss


def _train_op(loss: Tensor, rate: Any, optimizer: Optimizer, clip: float, step: Any) -> Any:
    """Return the op that applies clipped gradients of the loss; variables it does not depend on stay unchanged."""
    variables = v1.trainable_variables()
    gradients = v1.gradients(loss, variables) if variables else []
    if all(gradient is None for gradient in gradients):
        raise EstimatorError("the loss of model_fn does not depend on any variable", hint="create one with tf.Variable")
    if clip:
        gradients, _ = tf.clip_by_global_norm(gradients, clip)  # keeps a gradient of None
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return make(rate).apply_gradients(list(zip(gradients, variables, strict=True)), global_step=step, name="train")
