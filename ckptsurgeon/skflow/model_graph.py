"""A model and its optimizer as a TensorFlow graph, without values: what a `Net` opens a session on.

The graph holds skflow's variables: `global_step` (int32), the model's, `learning_rate` (float32) and the optimizer's
slots. Nothing here touches TensorFlow's global state but one switch: op determinism, without which the same seed need
not give the same weights. It holds for the whole process: there, random ops then want a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .errors import EstimatorError
from .models import ModelFunction, is_pure
from .ops import CLASS_WEIGHT, DROPOUTS, LOSS_WEIGHT, Tensor
from .quiet_tensorflow import quiet, tf, v1
from .variable_names import GLOBAL_STEP, LEARNING_RATE

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
    """A model, its optimizer, and what is needed to read and write the variables.

    Attributes:
        graph: the graph.
        X: placeholder of the features, float32 [rows, features].
        y: placeholder of the target.
        predictions: tensor of what the model predicts.
        loss: tensor of the mean loss, [].
        train_op: one step of the optimizer.
        initializer: gives all variables their initial values.
        all_finite: tensor that tells whether all weights are numbers, [].
        dropouts: keep probabilities, which are 1 wherever nothing is trained.
        summaries: tensors of serialized summaries, for TensorBoard.
        variables: name -> TensorFlow variable, in the order of their creation.
        trainable: the names of those that the optimizer changes through gradients.
        inputs: name -> placeholder of a new value.
        assigns: name -> op that sets the variable to it.
        reads: name -> tensor of the value.

    Args:
        model_fn: makes (predictions, loss) of X and y.
        features: columns of X.
        target: the shape of y beyond the rows: (classes,) for one-hot classes, () or (outputs,) for values.
        optimizer: a key of OPTIMIZERS, or a function from a learning rate to a tf.compat.v1.train.Optimizer.
        learning_rate: a number, kept in the variable `learning_rate`, or a function of the global_step's tensor.
        clip_gradients: the largest global norm of the gradients; 0 for no limit.
        seed: of the random ops in the graph.
        class_weight: factors of the logits, one for each class.
        loss_weight: factors of the rows' losses, one for each class.
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
        """Make summaries of the loss and of all weights; raw ops, whose tags are the variables' names as they are."""
        loss = tf.raw_ops.ScalarSummary(tags="loss", values=self.loss)
        return [loss, *(tf.raw_ops.HistogramSummary(tag=n, values=self.reads[n]) for n in self.trainable)]


def graph_for(
    model_fn: ModelFunction, features: int, target: tuple[int, ...], optimizer: Optimizer, rate: Rate, **more: Any
) -> ModelGraph:
    """Return the blueprint of a model: of our own models one that was made before, if there is one.

    Making one takes 0.1 s and more, longer than a short training: clones, folds of a cross-validation and a second
    `fit` share it. Its graph is closed then, nothing can be added. A model function of the user's is called each
    time, as what it builds may depend on anything.
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
    """Check what a model function returns."""
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise EstimatorError(
            "model_fn returns something else", expected="(predictions, loss)", found=type(made).__name__
        )
    predictions, loss = made
    if loss.shape.rank != 0:
        raise EstimatorError("the loss of model_fn is no scalar", expected="[]", found=loss.shape)
    return predictions, loss


def _train_op(loss: Tensor, rate: Any, optimizer: Optimizer, clip: float, step: Any) -> Any:
    """Apply the clipped gradients of the loss; variables that it does not depend on are left alone."""
    variables = v1.trainable_variables()
    gradients = v1.gradients(loss, variables) if variables else []
    if all(gradient is None for gradient in gradients):
        raise EstimatorError("the loss of model_fn depends on no variable", hint="tf.Variable makes one")
    if clip:
        gradients, _ = tf.clip_by_global_norm(gradients, clip)  # which hands on a gradient of None
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return make(rate).apply_gradients(list(zip(gradients, variables, strict=True)), global_step=step, name="train")
