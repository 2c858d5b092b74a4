"""TensorFlowEstimator, the base class of all skflow estimators.

Defaults, data order and names are those of skflow (github.com/tensorflow/skflow, April 2016). Differences:

- `partial_fit` always continues. In skflow it started over unless `continue_training=True`, despite its docstring.
- X is always cast to float32, and `learning_rate` may be an integer.
- Any labels are allowed, not only class numbers; as in scikit-learn, they are in `classes_`, and they define the
  number of classes if `n_classes` is None.
- A regressor with one output predicts [rows], as in scikit-learn, not [rows, 1].
- Training fails with an error if the loss or the weights are not finite.
- Dropout depends only on the seed and the global step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import ClassifierTags, RegressorTags
from sklearn.utils.validation import check_is_fitted, validate_data

from ..schemes.skflow_names import GLOBAL_STEP
from .errors import EstimatorError
from .graph.model_graph import CLIP_GRADIENTS, graph_for
from .graph.model_session import NUM_CORES, ModelSession
from .minibatches import ArrayFeeder, Rows, StreamFeeder, is_mapped, is_stream, one_hot
from .models import ModelFunction
from .monitors import BaseMonitor, TrainedModel
from .net_estimator import NetEstimator
from .validation import (
    DIVERGED,
    check_loss,
    check_params,
    check_same_labels,
    class_labels,
    class_numbers,
    class_weights,
    is_plain,
    is_whole,
    parameter_names,
    target_values,
)

Self = TypeVar("Self", bound="TensorFlowEstimator")


class TensorFlowEstimator(NetEstimator):
    """An estimator for any TensorFlow model, trained on mini-batches.

    Args:
        model_fn: returns (predictions, loss) tensors for the placeholders X, float32 [rows, features], and y: one-hot
            float32 [rows, classes], or values [rows] or [rows, outputs] for a regressor. It can use TensorFlow's
            ops, tf.Variable and tf.compat.v1.get_variable; all variables are trained and saved.
        n_classes: number of classes; 0 or 1 for a regressor; None for the number of labels in y.
        batch_size: rows of a mini-batch.
        steps: number of mini-batches (not epochs) trained by one call of `fit` or `partial_fit`.
        optimizer: "SGD", "Adagrad", "Adam", "Momentum", or a function from a learning rate to a
            tf.compat.v1.train.Optimizer, for instance its class.
        learning_rate: a number, or a function from the global step's tensor to a tensor.
        clip_gradients: the largest global norm of the gradients; 0 for no limit.
        class_weight: a list with a number for each class multiplies the logits, as in skflow, in training and
            prediction. A dict from labels to numbers, relative to their mean, multiplies the loss of
            each class's rows, as in scikit-learn; missing labels count as 1. A custom model must use
            `models.logistic_regression` for this to have an effect.
        tf_random_seed: seed of initial weights and dropout. The same seed gives the same weights, bit for bit.
        continue_training: `fit` continues an already fitted model instead of starting over.
        num_cores: threads per operation. It can change the last bits of sums over wide layers.
        verbose: 0 is silent; 1 or more prints the average loss ten times per call.
        max_to_keep: number of checkpoints that `save` keeps in a folder; 0 or None for all.

    Attributes:
        classes_: the labels, [classes], of a fitted classifier: 0 … n_classes-1 if `n_classes` is given and y
            contains only such numbers, otherwise the labels in y.
        n_features_in_: columns of X.
    """

    def __init__(
        self,
        model_fn: ModelFunction | None,
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
    ) -> None:
        self.model_fn = model_fn
        self.n_classes = n_classes
        self.batch_size = batch_size
        self.steps = steps
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.clip_gradients = clip_gradients
        self.class_weight = class_weight
        self.tf_random_seed = tf_random_seed
        self.continue_training = continue_training
        self.num_cores = num_cores
        self.verbose = verbose
        self.max_to_keep = max_to_keep

    # -- training

    def fit(self: Self, X: Any, y: Any, monitor: BaseMonitor | None = None, logdir: Any = None) -> Self:
        """Train `steps` mini-batches, from new weights unless `continue_training` is set and the model is fitted.

        Args:
            X: numbers, [rows, features]. A memory-mapped array is read one mini-batch at a time. An iterator yields
                the features of one row at a time; when it ends, so does the training.
            y: labels [rows], or values [rows] or [rows, outputs]; an iterator if X is one.
            monitor: observes the training, and can stop it early.
            logdir: a folder in which to create a folder with an event file for TensorBoard.

        Raises:
            EstimatorError: a parameter, X or y is invalid, or the loss or weights are no longer finite.
        """
        new = not (self.continue_training and self.__sklearn_is_fitted__())
        return self._fit(X, y, new, None, monitor, logdir)

    def partial_fit(
        self: Self, X: Any, y: Any, classes: Any = None, monitor: BaseMonitor | None = None, logdir: Any = None
    ) -> Self:
        """Train `steps` mini-batches of these rows, always continuing from the present weights.

        Args:
            X: as for `fit`.
            y: as for `fit`.
            classes: all labels, for a first call whose rows lack some. Not needed if labels are class numbers,
                0 … n_classes-1.
            monitor: as for `fit`.
            logdir: as for `fit`.

        Raises:
            EstimatorError: as for `fit`.
        """
        return self._fit(X, y, not self.__sklearn_is_fitted__(), classes, monitor, logdir)

    def _fit(self: Self, X: Any, y: Any, new: bool, classes: Any, monitor: BaseMonitor | None, logdir: Any) -> Self:
        self._check_params()
        if monitor is not None and not isinstance(monitor, BaseMonitor):
            expected = "skflow.monitors.BaseMonitor or a subclass"
            raise EstimatorError("cannot use the monitor", expected=expected, found=type(monitor).__name__)
        stream = StreamFeeder(X, y, self.batch_size) if is_stream(X) else None
        if stream:
            X, y = stream.first
        X, y = self._validated(X, y, reset=new)
        labels: NDArray[Any] | None = None
        shape: tuple[int, ...]
        if self._classifies:
            labels = self._labels(y, new, classes, whole=stream is None)
            target, shape = class_numbers(y, labels), (len(labels),)
        else:
            target, shape = target_values(y)
        if new:
            self._build(X.shape[1], shape, labels)
            self._net.initialize()
            if labels is not None:
                self.classes_ = labels
        else:
            self._check_target(shape)
        feeder: Any = stream.encoded(self._rows) if stream else ArrayFeeder(X, target, self.batch_size, self._encoded)
        self._train(feeder, monitor, logdir, new)
        return self

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[NDArray[Any], NDArray[Any]]:
        """Check rows and their target. X is returned as float32, or unchanged if memory-mapped."""
        if not reset and is_plain(X, y, self.n_features_in_) and not hasattr(self, "feature_names_in_"):
            with np.errstate(over="ignore"):
                rows = np.ascontiguousarray(X, np.float32)
            if np.isfinite(rows).all():
                return rows, y
        mapped = is_mapped(X)
        X, y = validate_data(
            self, X, y, reset=reset, dtype="numeric" if mapped else np.float32, order=None if mapped else "C",
            y_numeric=not self._classifies, multi_output=True,
        )  # fmt: skip
        return X, y

    def _labels(self, y: NDArray[Any], new: bool, classes: Any, whole: bool) -> NDArray[Any]:
        """Return the labels for `classes_`.

        Args:
            y: the labels of rows.
            new: whether the model gets new weights.
            classes: the argument of `partial_fit`.
            whole: whether y contains all rows.
        """
        if not new and classes is None:
            return self.classes_
        if classes is None and not whole and self.n_classes is None:
            hint = "set n_classes=... or use partial_fit(..., classes=...)"
            raise EstimatorError("the labels of an iterator are unknown before its end", hint=hint)
        if classes is None and not whole:
            classes = np.arange(self.n_classes or 0)
        labels = class_labels(y if classes is None else classes, self.n_classes)
        if not new:
            check_same_labels(labels, self.classes_)
        return labels

    def _rows(self, X: Any, y: Any) -> tuple[Rows, Rows]:
        """Return rows and their target as input for the fitted network."""
        X, y = self._validated(X, y, reset=False)
        target, shape = (class_numbers(y, self.classes_), self._target) if self._classifies else target_values(y)
        self._check_target(shape)
        return np.ascontiguousarray(X, np.float32), self._encoded(target)

    def _check_target(self, shape: tuple[int, ...]) -> None:
        if shape != self._target:
            expected, found = (f"{list(each) or 'one value'} a row" for each in (self._target, shape))
            raise EstimatorError("y has a different shape than before", expected=expected, found=found)

    def _encoded(self, target: NDArray[Any]) -> Rows:
        return one_hot(target, len(self.classes_)) if self._classifies else target

    def _train(self, feeder: Any, monitor: BaseMonitor | None, logdir: Any, new: bool) -> None:
        """Run the steps. If training fails, an earlier model keeps its weights, and a new one stays unfitted."""
        before = None if new else self._net.values()
        if monitor is None and self.verbose:
            monitor = BaseMonitor(print_steps=math.ceil(self.steps / 10))
        try:
            if monitor is None and logdir is None:
                for step, (X, y) in zip(range(self.steps), feeder, strict=False):
                    check_loss(self._net.train(X, y), step)
            else:
                self._train_watched(feeder, monitor or BaseMonitor(verbose=0), logdir, new)
            if not self._net.is_finite():
                raise EstimatorError("the weights are no longer finite", hint=DIVERGED)
        except EstimatorError:
            if before is None:
                self._net.close()
                del self._net
            else:
                self._net.write(before)
            raise

    def _train_watched(self, feeder: Any, monitor: BaseMonitor, logdir: Any, new: bool) -> None:
        from .graph.summaries import EventFile

        net = self._net
        number = int(net.read([GLOBAL_STEP])[0])
        with (
            monitor.watching(self._watched(), new),
            nullcontext() if logdir is None else EventFile(logdir, net.graph) as events,
        ):
            for step, (X, y) in zip(range(self.steps), feeder, strict=False):
                loss, summaries = net.train_summarized(X, y) if events else (net.train(X, y), [])
                check_loss(loss, step)
                number += 1
                if events:
                    events.add(summaries, number)
                monitor.update(number, step, loss, net.session, feeder.get_feed_params, net.loss)
                if monitor.monitor_inducing_stop():
                    break

    def _watched(self) -> TrainedModel:
        """Return what a monitor uses of this estimator."""
        net = self._net

        def loss_on(X: Any, y: Any) -> Callable[[], float]:
            rows, target = self._rows(X, y)
            return lambda: float(net.compute(net.loss, rows, target))

        return TrainedModel(net.X, net.y, len(self.classes_) if self._classifies else 0, loss_on)

    def _build(self, features: int, target: tuple[int, ...], labels: NDArray[Any] | None = None) -> None:
        """Replace the network with a new one, whose variables have no values yet.

        Args:
            features: columns of X.
            target: the shape of one row's target.
            labels: labels of the classes; None for `classes_`.
        """
        labels = getattr(self, "classes_", None) if labels is None else labels
        logits, losses = class_weights(self.class_weight, labels)
        made = graph_for(
            self._model(), features, target, self.optimizer, self.learning_rate,
            clip_gradients=float(self.clip_gradients or 0), seed=int(self.tf_random_seed),
            class_weight=logits, loss_weight=losses,
        )  # fmt: skip
        net = ModelSession(made, num_cores=self.num_cores, rewrite=False)
        if self.__sklearn_is_fitted__():
            self._net.close()
        self._net, self._target = net, target

    def _model(self) -> ModelFunction:
        if self.model_fn is None:
            raise EstimatorError("there is no model_fn", hint="pass one: restore(folder, model_fn=...)")
        return self.model_fn

    # -- files

    def save(self, path: str) -> None:
        """Save the model into a folder: `model.def`, `checkpoint` and `model-<global_step>` in TensorFlow's V2 format.

        Raises:
            NotFittedError: before the first `fit`.
            CkptSurgeonError: the folder cannot be written.
        """
        from .checkpoints import saving

        check_is_fitted(self)
        saving.save(self, path)

    @classmethod
    def restore(cls: type[Self], path: str, **params: Any) -> Self:
        """Restore the estimator that was saved into a folder, which may have moved.

        Args:
            path: the folder.
            params: parameters to replace, and those that cannot be saved: functions.

        Raises:
            EstimatorError: the folder has no model, or it is damaged or of another class.
        """
        from .checkpoints import restoring

        return restoring.restore(cls, path, params)

    # -- scikit-learn's side

    @property
    def _classifies(self) -> bool:
        return self.n_classes is None or is_whole(self.n_classes, 2)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self._classifies:
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
            tags.target_tags.multi_output = True
        return tags

    def _check_params(self) -> None:
        check_params({name: getattr(self, name) for name in parameter_names(type(self))})
