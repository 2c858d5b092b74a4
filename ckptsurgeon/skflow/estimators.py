"""TensorFlowEstimator: what all estimators of skflow have in common.

Defaults, data order and names are those of skflow (github.com/tensorflow/skflow, April 2016). What differs:

- `partial_fit` always continues. In skflow it began anew unless `continue_training=True`, against its own docstring.
- X is always cast to float32, and an integer `learning_rate` is taken.
- Any labels are allowed, not only class numbers; `classes_` holds them, as in scikit-learn.
- A regressor with one output predicts [rows], as in scikit-learn, not [rows, 1].
- A loss or weights that are not finite end the training with an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import did_you_mean
from .architecture import Values
from .models import ModelFunction
from .runtime import tf
from .training import CLIP_GRADIENTS, NUM_CORES, Net, batches, one_hot
from .validation import EstimatorError, check_params, check_same_labels, class_labels, class_numbers, is_whole

Self = TypeVar("Self", bound="TensorFlowEstimator")


_DIVERGED = "a smaller learning_rate or scaled features may help"


class TensorFlowEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn comes without types
    """An estimator of any TensorFlow model, trained by mini-batches.

    Args:
        model_fn: makes (predictions, loss) tensors of the placeholders X, float32 [rows, features], and y: float32
            one-hot [rows, n_classes], or the values [rows] or [rows, outputs] if there are no classes.
        n_classes: classes of the target; 0 or 1 for regression.
        batch_size: rows of a mini-batch.
        steps: mini-batches (not epochs) that one call of `fit` or `partial_fit` trains.
        optimizer: "SGD", "Adagrad", "Adam", or a function from a learning rate to a tf.compat.v1.train.Optimizer.
        learning_rate: a number, or a function from the global step's tensor to a tensor.
        clip_gradients: the largest global norm of the gradients; 0 for no limit.
        tf_random_seed: of the initial weights. Same seed, same weights, bit for bit.
        continue_training: `fit` goes on with a model that is there, where it would begin anew.
        num_cores: threads inside an operation. Sums over wide layers may differ in their last bits with it.
        verbose: 0 is silent; from 1 on the average loss is printed ten times a call.
        max_to_keep: checkpoints that `save` leaves in a folder; 0 or None for all.

    Attributes:
        classes_: the labels, [n_classes], of a fitted classifier.
        n_features_in_: columns of X.
    """

    classes_: NDArray[Any]
    n_features_in_: int
    _net: Net
    _target: tuple[int, ...]  # the shape of the target beyond the rows

    def __init__(
        self,
        model_fn: ModelFunction | None,
        n_classes: int,
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
    ) -> None:
        self.model_fn = model_fn
        self.n_classes = n_classes
        self.batch_size = batch_size
        self.steps = steps
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.clip_gradients = clip_gradients
        self.tf_random_seed = tf_random_seed
        self.continue_training = continue_training
        self.num_cores = num_cores
        self.verbose = verbose
        self.max_to_keep = max_to_keep

    # -- training

    def fit(self: Self, X: Any, y: Any) -> Self:
        """Train `steps` mini-batches, from new weights unless `continue_training` is set and there are some.

        Args:
            X: numbers, [rows, features].
            y: labels [rows], or values [rows] or [rows, outputs].

        Raises:
            EstimatorError: a parameter, X or y cannot be used, or loss or weights are not finite any more.
        """
        return self._fit(X, y, anew=not (self.continue_training and self.__sklearn_is_fitted__()))

    def partial_fit(self: Self, X: Any, y: Any, classes: Any = None) -> Self:
        """Train `steps` mini-batches of these rows, always going on from the weights that are there.

        Args:
            X: numbers, [rows, features].
            y: labels [rows], or values [rows] or [rows, outputs].
            classes: all labels, for a first call whose rows do not hold all of them. Not needed where labels are
                class numbers, 0 … n_classes-1.

        Raises:
            EstimatorError: as for `fit`.
        """
        return self._fit(X, y, anew=not self.__sklearn_is_fitted__(), classes=classes)

    def _fit(self: Self, X: Any, y: Any, anew: bool, classes: Any = None) -> Self:
        self._check_params()
        X, y = validate_data(
            self, X, y, reset=anew, dtype=np.float32, order="C", y_numeric=not self._classifies, multi_output=True
        )
        if self._classifies:
            if anew or classes is not None:
                labels = class_labels(y if classes is None else classes, self.n_classes)
                if not anew:
                    check_same_labels(labels, self.classes_)
            else:
                labels = self.classes_
            target, shape = class_numbers(y, labels), (self.n_classes,)
        else:
            target = (y[:, 0] if y.shape[1:] == (1,) else y).astype(np.float32)
            shape = target.shape[1:]
        if anew:
            self._build(X.shape[1], shape)
            self._net.initialize()
            if self._classifies:
                self.classes_ = labels
        elif shape != self._target:
            expected, found = (f"{list(each) or 'one value'} a row" for each in (self._target, shape))
            raise EstimatorError("y has another shape than before", expected=expected, found=found)
        self._train(X, target)
        return self

    def _train(self, X: NDArray[np.float32], target: NDArray[Any]) -> None:
        """Run the steps; the mean loss is printed every tenth of them, as skflow's trainer does."""
        pause = math.ceil(self.steps / 10)
        losses: list[float] = []
        for step, rows in zip(range(self.steps), batches(len(X), self.batch_size), strict=False):
            y = one_hot(target[rows], self.n_classes) if self._classifies else target[rows]
            losses.append(self._net.train(X[rows], y))
            if not math.isfinite(losses[-1]):
                raise EstimatorError(f"the loss is {losses[-1]} in step {step + 1} of this call", hint=_DIVERGED)
            if self.verbose and step % pause == 0:
                number = int(self._net.read(["global_step"])[0])
                print(f"Step #{number}, avg. train loss: {np.mean(losses):.5f}")
                losses.clear()
        if not self._net.is_finite():
            raise EstimatorError("the weights are not finite any more", hint=_DIVERGED)

    def _build(self, features: int, target: tuple[int, ...]) -> None:
        """Replace the network by a new one, whose variables have no values yet."""
        net = Net(
            self._model,
            features,
            target,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            clip_gradients=self.clip_gradients or 0.0,
            seed=self.tf_random_seed,
            num_cores=self.num_cores,
        )
        if self.__sklearn_is_fitted__():
            self._net.close()
        self._net, self._target = net, target

    def _model(self, X: Any, y: Any) -> tuple[Any, Any]:
        if self.model_fn is None:
            raise EstimatorError("there is no model_fn", hint="restore(folder, model_fn=...) gives one")
        return self.model_fn(X, y)

    # -- prediction

    def predict(self, X: Any, batch_size: int = -1) -> NDArray[Any]:
        """Predict the label, or the value, of each row.

        Args:
            X: numbers, [rows, features].
            batch_size: rows to compute at a time; all of them unless told otherwise.

        Returns:
            Labels, [rows]; or float32 values, [rows] or [rows, outputs].

        Raises:
            NotFittedError: before the first `fit`.
        """
        predictions = self._predict(X, batch_size)
        if self._classifies:
            labels: NDArray[Any] = self.classes_[predictions.argmax(axis=1)]
            return labels
        return predictions[:, 0] if not self._target and predictions.ndim == 2 else predictions

    @available_if(lambda self: self._classifies)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, batch_size: int = -1) -> NDArray[np.float32]:
        """Predict the probability of each class, in the order of `classes_`; float32 [rows, n_classes].

        Args:
            X: numbers, [rows, features].
            batch_size: rows to compute at a time; all of them unless told otherwise.

        Raises:
            NotFittedError: before the first `fit`.
        """
        return self._predict(X, batch_size)

    def _predict(self, X: Any, batch_size: int) -> NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32, order="C")
        size = batch_size if batch_size > 0 else len(X)
        return np.concatenate([self._net.predict(X[row : row + size]) for row in range(0, len(X), size)])

    # -- values

    def get_tensor_value(self, name: str) -> NDArray[Any]:
        """Return the value of a tensor of the graph, for instance 'dnn/layer0/Linear/Matrix:0'.

        Args:
            name: of a variable or of a tensor that needs no input; the ':0' may be left out.

        Raises:
            NotFittedError: before the first `fit`.
            EstimatorError: there is no such tensor.
        """
        check_is_fitted(self)
        variable = name.removesuffix(":0")
        if variable in self._net.variables:
            return self._net.read([variable])[0]
        try:
            tensor = self._net.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            hint = did_you_mean(variable, self._net.variables)
            raise EstimatorError(f"there is no tensor {name!r}", hint=hint) from None
        try:
            return np.array(self._net.session.run(tensor))
        except (tf.errors.OpError, TypeError):  # TypeError: it is no array, but the handle of a variable
            raise EstimatorError(f"the tensor {name!r} has no value without X and y") from None

    def save(self, path: str) -> None:
        """Save the model into a folder: `model.def`, `checkpoint` and `model-<global_step>` in TensorFlow's V2 format.

        Raises:
            NotFittedError: before the first `fit`.
            CkptSurgeonError: the folder cannot be written.
        """
        from . import saving

        check_is_fitted(self)
        saving.save(self, path)

    @classmethod
    def restore(cls: type[Self], path: str, **params: Any) -> Self:
        """Give back the estimator that was saved into a folder, wherever that folder lies now.

        Args:
            path: the folder.
            params: parameters to replace, and those that a file cannot hold: functions.

        Raises:
            EstimatorError: there is no model in the folder, it is damaged, or of another class.
        """
        from . import saving

        return saving.restore(cls, path, params)

    # -- scikit-learn's side

    @property
    def _classifies(self) -> bool:
        return is_whole(self.n_classes, 2)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_net")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the values of the variables in place of the session."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "_net" in state:
            state["_values"] = state.pop("_net").values()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        values: Values | None = state.pop("_values", None)
        super().__setstate__(state)
        if values is not None:
            self._build(self.n_features_in_, self._target)
            self._net.write(values)

    def _check_params(self) -> None:
        check_params(self.get_params(deep=False))
