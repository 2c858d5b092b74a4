"""Monitors: they print the progress of a training and can stop it early. Names and behaviour are skflow's.

monitor = skflow.monitors.ValidationMonitor(val_X, val_y, n_classes=3, early_stopping_rounds=200)
classifier.fit(X, y, monitor)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EstimatorError

Feed = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class TrainedModel:
    """What a monitor uses of the model being trained.

    Attributes:
        X: placeholder of the features.
        y: placeholder of the target.
        n_classes: number of classes; 0 for a regressor.
        loss_on: checks rows and their labels or values, and returns a function that computes the current loss on them.
    """

    X: Any
    y: Any
    n_classes: int
    loss_on: Callable[[Any, Any], Callable[[], float]]


def default_monitor(verbose: int = 1) -> BaseMonitor:
    """Return a monitor that prints the training's loss every 100 steps."""
    return BaseMonitor(verbose=verbose)


class BaseMonitor:
    """Prints the mean training loss at intervals, and can stop the training when the loss no longer falls.

    A `fit` with new weights resets the monitor; `partial_fit` and a continued `fit` do not.

    Args:
        print_steps: number of steps between lines.
        early_stopping_rounds: stop after this many steps without a smaller loss; None for never.
        verbose: 0 prints nothing.

    Attributes:
        steps: number of the last step in this call, from 0.
        global_step: steps that the model has been trained in all calls.
        epoch: completed passes over the rows in this call; None if unknown.
        min_loss: the smallest loss so far.
        min_loss_i: the global step of that loss.
        last_loss_seen: the latest loss.
        converged: whether this monitor has stopped a training.
        all_train_loss_buffer: the loss of every mini-batch before its step.
    """

    def __init__(self, print_steps: int = 100, early_stopping_rounds: int | None = None, verbose: int = 1) -> None:
        for name, value in (("print_steps", print_steps), ("early_stopping_rounds", early_stopping_rounds)):
            if not (isinstance(value, (int, np.integer)) and value >= 1) and (
                name == "print_steps" or value is not None
            ):
                raise EstimatorError(f"cannot use {name}", expected="a whole number from 1", found=repr(value))
        self.print_steps = print_steps
        self.early_stopping_rounds = early_stopping_rounds
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self.converged = False
        self.min_loss = np.inf
        self.min_loss_i = 0
        self.last_loss_seen = np.inf
        self.steps = 0
        self.global_step = 0
        self.epoch: int | None = None
        self.sess: Any = None
        self.loss_expression_tensor: Any = None
        self.print_train_loss_buffer: list[float] = []
        self.all_train_loss_buffer: list[float] = []

    # -- called by the training

    def begin(self, model: TrainedModel, new: bool) -> None:
        """Get ready for a call of `fit` or `partial_fit`.

        Args:
            model: the model to be trained.
            new: whether its weights are new.
        """
        if new:
            self._reset()
        self.create_val_feed_dict(model.X, model.y)

    def end(self) -> None:
        """Release the network, so that the monitor can be kept and copied."""
        self.sess = self.loss_expression_tensor = None

    @contextmanager
    def watching(self, model: TrainedModel, new: bool) -> Iterator[None]:
        """Surround a training with `begin` and `end`."""
        self.begin(model, new)
        try:
            yield
        finally:
            self.end()

    def update(
        self,
        global_step: int,
        step_number: int,
        training_loss: float,
        sess: Any,
        feed_params_fn: Feed | None,
        loss_expression_tensor: Any,
    ) -> None:
        """Record a step, and print a line if one is due.

        Args:
            global_step: steps that the model has been trained, including this one.
            step_number: number of the step in this call, from 0.
            training_loss: loss of the mini-batch.
            sess: the TensorFlow session.
            feed_params_fn: returns a dict about the data, with `epoch` for instance.
            loss_expression_tensor: the tensor of the loss.
        """
        self.steps, self.global_step = step_number, global_step
        self.print_train_loss_buffer.append(training_loss)
        self.all_train_loss_buffer.append(training_loss)
        self.sess, self.loss_expression_tensor = sess, loss_expression_tensor
        self._set_last_loss_seen()
        if self.last_loss_seen < self.min_loss:
            self.min_loss, self.min_loss_i = self.last_loss_seen, global_step
        self.epoch = feed_params_fn().get("epoch") if feed_params_fn else None
        self.report()

    def report(self) -> None:
        """Print a line if one is due."""
        if self.verbose and self.steps % self.print_steps == 0:
            print(self._summary())
            self.print_train_loss_buffer = []

    def monitor_inducing_stop(self) -> bool:
        """Tell whether the training should stop now."""
        if self.early_stopping_rounds is None or self.global_step - self.min_loss_i < self.early_stopping_rounds:
            return False
        self.converged = True
        if self.verbose:
            print(f"Stopping. Best step:\n step {self.min_loss_i} with loss {self.min_loss}", file=sys.stderr)
        return True

    # -- overridden in custom monitors

    def create_val_feed_dict(self, inp: Any, out: Any) -> None:
        """Prepare to feed rows to the placeholders `inp` and `out`; called when a training begins."""

    def _set_last_loss_seen(self) -> None:
        self.last_loss_seen = self.all_train_loss_buffer[-1]

    def _summary(self) -> str:
        epoch = f", epoch #{self.epoch}" if self.epoch else ""
        return f"Step #{self.global_step}{epoch}, avg. train loss: {np.mean(self.print_train_loss_buffer):.5f}"


class ValidationMonitor(BaseMonitor):
    """Also computes and prints the loss on held-out rows after every step; it decides when to stop.

    The loss is computed without dropout. The weights stay those of the last step, as in skflow; `min_loss_i` is the
    step that was best.

    Args:
        val_X: numbers, [rows, features].
        val_y: labels or values as `fit` takes them.
        n_classes: the number of labels, as in skflow; 0 for values, or to use the estimator's.
        print_steps: number of steps between lines.
        early_stopping_rounds: stop after this many steps without a smaller loss on these rows.

    Attributes:
        all_val_loss_buffer: the loss on these rows after every step.
    """

    def __init__(
        self,
        val_X: Any,
        val_y: Any,
        n_classes: int = 0,
        print_steps: int = 100,
        early_stopping_rounds: int | None = None,
    ) -> None:
        super().__init__(print_steps, early_stopping_rounds)
        self.val_X = val_X
        self.val_y = val_y
        self.n_classes = n_classes

    def _reset(self) -> None:
        super()._reset()
        self.print_val_loss_buffer: list[float] = []
        self.all_val_loss_buffer: list[float] = []
        self._loss: Callable[[], float] | None = None

    def begin(self, model: TrainedModel, new: bool) -> None:
        """Check the monitor's rows against the model."""
        super().begin(model, new)
        if self.n_classes > 1 and self.n_classes != model.n_classes:
            expected = model.n_classes or "0, as the estimator is a regressor"
            raise EstimatorError("n_classes of the monitor does not match", expected=expected, found=self.n_classes)
        self._loss = model.loss_on(self.val_X, self.val_y)

    def end(self) -> None:
        """Release the network."""
        super().end()
        self._loss = None

    def _set_last_loss_seen(self) -> None:
        assert self._loss
        self.last_loss_seen = self._loss()
        self.all_val_loss_buffer.append(self.last_loss_seen)
        self.print_val_loss_buffer.append(self.last_loss_seen)

    def _summary(self) -> str:
        line = f"{super()._summary()}, avg. val loss: {np.mean(self.print_val_loss_buffer):.5f}"
        self.print_val_loss_buffer = []
        return line
