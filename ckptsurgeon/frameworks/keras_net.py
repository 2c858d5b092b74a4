"""A compiled Keras model as a `Net`. Works with every backend of Keras; bundles need TensorFlow's.

Keras saves no state of random generators. So at each step all generators of the model (of dropout and augmentation
layers) are set to seeds that depend on the step alone: a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError, shape_text
from . import keras_files
from .net import AT_ONCE, Net, Problem, chances, check_finite


def seed(seed: int) -> None:
    """Make what follows depend on the seed alone: initial weights, and the numbers in layers' names."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def wrap(made: object, problem: Problem) -> Net | None:
    """Return a Keras model as a `Net`; None for anything else."""
    return KerasNet(made, problem) if isinstance(made, keras.Model) else None


class KerasNet:
    """A compiled Keras model.

    Args:
        model: what the user's function returned.
        problem: what it is to learn.

    Raises:
        RefusedError: it is not compiled, or it has several inputs or outputs.
    """

    def __init__(self, model: keras.Model, problem: Problem) -> None:
        self.model = model
        self._problem = problem
        if not model.compiled or model.optimizer is None:
            raise RefusedError("the trainer's model is not compiled", expected="model.compile(optimizer, loss)")
        _check_ends(model, problem)
        if not model.built or not _has_one_output(model):
            outputs = model(np.zeros((1, *problem.input_shape), np.float32), training=False)
            _check_number("outputs", outputs)
        model.optimizer.build(model.trainable_variables)
        saved = {id(variable) for variable in [*model.weights, *model.metrics_variables]}
        self._functions: dict[int, Any] = {}
        self._generators = [variable for variable in model.variables if id(variable) not in saved]

    def initial(self, output: str) -> None:
        """Write the weights that the model was built with."""
        keras_files.save(self.model, output)

    def load(self, checkpoint: str) -> None:
        """Read the weights, and the optimizer's state, of a checkpoint."""
        keras_files.load(self.model, checkpoint)

    def train(
        self,
        checkpoint: str,
        output: str,
        X: NDArray[Any],
        y: NDArray[Any],
        seed: int,
        learning_rate: float | None = None,
    ) -> Mapping[str, float]:
        """Read a checkpoint, train it on one mini-batch, write it, and return the metrics of the mini-batch."""
        self.load(checkpoint)
        if learning_rate is not None:
            self._set_learning_rate(learning_rate)
        metrics = self.step(X, y, seed)
        keras_files.save(self.model, output, like=checkpoint)
        return metrics

    def step(self, X: NDArray[Any], y: NDArray[Any], seed: int) -> Mapping[str, float]:
        """Train the model as it is on one mini-batch, and return the metrics of the mini-batch."""
        self._seed(seed)
        # A function for each number of rows: TensorFlow would trace a second number for any number, with other kernels,
        # and then use that for the first one too. The bytes would depend on the steps before.
        self.model.train_function = self._functions.get(len(X))
        metrics = self.model.train_on_batch(X, self._targets(y), return_dict=True)
        found = {name: float(value) for name, value in metrics.items()}
        self._functions[len(X)] = self.model.train_function
        check_finite(found)
        self.model.reset_metrics()
        return found

    def outputs(self, checkpoint: str, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs]."""
        self.load(checkpoint)
        parts = [self.model.predict_on_batch(X[start : start + AT_ONCE]) for start in range(0, len(X), AT_ONCE)]
        return chances(np.concatenate(parts), self._problem, self.logits)

    @property
    def logits(self) -> bool:
        """Whether the outputs of a classifier are logits."""
        return bool(getattr(self.model.loss, "from_logits", False))

    def _set_learning_rate(self, rate: float) -> None:
        try:
            self.model.optimizer.learning_rate = rate
        except TypeError as error:  # the optimizer has a schedule of Keras's own
            what = "ring.toml sets a learning rate, and the trainer's optimizer has a schedule of its own"
            raise RefusedError(what, hint="leave one of them out") from error

    def _seed(self, seed: int) -> None:
        """Set the state of every random generator.

        TensorFlow's global seed stays as it is: `tf.random.set_seed` would have the model compiled again at each step.
        """
        random.seed(seed)
        np.random.seed(seed)
        drawn = np.random.SeedSequence(seed).generate_state(max(1, len(self._generators)))
        for variable, value in zip(self._generators, drawn >> 1, strict=False):
            variable.assign(np.array([value, 0]))

    def _targets(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return the targets in the form that the loss expects: class numbers, one-hot rows or values."""
        problem = self._problem
        if problem.classes is None:
            return y.reshape(len(y), problem.outputs).astype(np.float32)
        loss = self.model.loss
        name = str(loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", "")))
        one_hot = name in ("categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence") or (
            name == "mean_squared_error" and problem.classes > 2
        )
        return np.eye(problem.classes, dtype=np.float32)[y] if one_hot else y


def _has_one_output(model: keras.Model) -> bool:
    """Return whether the model says that it has one output; a subclassed model says nothing."""
    return len(getattr(model, "outputs", None) or ()) == 1


def _check_ends(model: keras.Model, problem: Problem) -> None:
    """Check what a functional model says of its inputs and outputs."""
    for what in ("inputs", "outputs"):
        ends = getattr(model, what, None) or ()
        _check_number(what, list(ends) if len(ends) > 1 else None)
    for each in getattr(model, "inputs", None) or ():
        shape = tuple(each.shape)[1:]
        fits = len(shape) == len(problem.input_shape) and all(
            size in (None, wanted) for size, wanted in zip(shape, problem.input_shape, strict=True)
        )
        if not fits:
            expected, found = (shape_text("rows", *each) for each in (problem.input_shape, shape))
            raise RefusedError("the model's input does not fit the rows", expected=expected, found=found)


def _check_number(what: str, ends: object) -> None:
    if isinstance(ends, list | tuple | dict):
        raise RefusedError(f"the trainer's model has {len(ends)} {what}", expected=f"a model with one of the {what}")
