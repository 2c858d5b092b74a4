"""What every estimator does with its network: predict, look up tensors, accept grafts, and be pickled."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ..errors import did_you_mean
from ..plan import Report
from .checkpoints.architecture import Values
from .errors import EstimatorError
from .graph.model_session import ModelSession
from .graph.quiet_tensorflow import tf
from .minibatches import MAPPED_ROWS, Rows, is_mapped, is_stream, parts
from .ops import Tensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..surgeon.options import GraftKeywords

_BLOCK = 64  # rows; a multiple of what any kernel computes at a time


class NetEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn comes without types
    """An estimator that has a network once it is fitted.

    Attributes:
        classes_: the labels, [classes], of a classifier.
        n_features_in_: columns of X.
    """

    classes_: NDArray[Any]
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    n_classes: int | None
    max_to_keep: int | None
    _net: ModelSession
    _target: tuple[int, ...]  # the shape of one row's target

    @property
    @abstractmethod
    def _classifies(self) -> bool:
        """Whether the estimator is a classifier."""

    @abstractmethod
    def _check_params(self) -> None:
        """Refuse the first invalid parameter."""

    @abstractmethod
    def _build(self, features: int, target: tuple[int, ...]) -> None:
        """Replace the network with a new one, whose variables have no values yet."""

    @abstractmethod
    def _rows(self, X: Any, y: Any) -> tuple[Rows, Rows]:
        """Return rows and their target as input for the network."""

    # -- prediction

    def predict(self, X: Any, axis: int = 1, batch_size: int = -1) -> NDArray[Any]:
        """Predict the label, or the value, of each row.

        Args:
            X: numbers, [rows, features], or an iterator of rows.
            axis: the axis of the classes in the predictions; 2 for a custom model that predicts sequences.
            batch_size: rows to compute at a time; -1 for all.

        Returns:
            Labels, [rows]; or values, [rows] or [rows, outputs].

        Raises:
            NotFittedError: before the first `fit`.
        """
        predictions = self._predict(X, batch_size)
        if self._classifies:
            labels: NDArray[Any] = self.classes_[predictions.argmax(axis=axis)]
            return labels
        values = predictions[:, 0] if not self._target and predictions.ndim == 2 else predictions
        return values.astype(np.float64)

    @available_if(lambda self: self._classifies)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, batch_size: int = -1) -> NDArray[np.float32]:
        """Predict the probability of each class, in the order of `classes_`; float32 [rows, classes].

        Args:
            X: numbers, [rows, features], or an iterator of rows.
            batch_size: rows to compute at a time; -1 for all.

        Raises:
            NotFittedError: before the first `fit`.
        """
        return self._predict(X, batch_size)

    def _predict(self, X: Any, batch_size: int) -> NDArray[np.float32]:
        check_is_fitted(self)
        if is_stream(X):
            chunks: Iterator[Any] = (self._features(rows) for rows in parts(X, batch_size))
        else:
            mapped = is_mapped(X)
            X = self._features(X)
            size = batch_size if batch_size > 0 else MAPPED_ROWS if mapped else len(X)
            chunks = (np.asarray(X[row : row + size], np.float32) for row in range(0, len(X), size))
        predicted = [self._net.predict(_whole_blocks(rows))[: len(rows)] for rows in chunks]
        if not predicted:
            raise EstimatorError("the iterator X yields no rows")
        return np.concatenate(predicted)

    def _features(self, X: Any) -> NDArray[Any]:
        mapped = is_mapped(X)
        return validate_data(  # type: ignore[no-any-return]
            self, X, reset=False, dtype="numeric" if mapped else np.float32, order=None if mapped else "C"
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of a classifier, or the coefficient of determination, R², of a regressor."""
        kind = ClassifierMixin if self._classifies else RegressorMixin
        return float(kind.score(self, X, y, sample_weight))

    # -- looking into the network

    def get_tensor(self, name: str) -> Tensor:
        """Return a tensor of the graph by name; ':0' is optional.

        Raises:
            NotFittedError: before the first `fit`.
            EstimatorError: there is no such tensor.
        """
        check_is_fitted(self)
        try:
            return self._net.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            hint = did_you_mean(name.removesuffix(":0"), self._net.variables)
            raise EstimatorError(f"there is no tensor {name!r}", hint=hint) from None

    def get_tensor_value(self, name: str, X: Any = None, y: Any = None) -> NDArray[Any]:
        """Return the value of a tensor of the graph, for instance 'dnn/layer0/Linear/Matrix:0'.

        Args:
            name: a variable or any other tensor; ':0' is optional.
            X: rows to compute it for, as for `predict`; 'dnn/layer1/Relu' is the output of layer 1.
            y: their labels or values, for tensors that need them, such as the loss.

        Raises:
            NotFittedError: before the first `fit`.
            EstimatorError: there is no such tensor, or it needs rows.
        """
        tensor = self.get_tensor(name)
        variable = name.removesuffix(":0")
        if variable in self._net.variables:
            return self._net.read([variable])[0]
        rows = target = None
        if X is not None:
            rows, target = (np.asarray(self._features(X), np.float32), None) if y is None else self._rows(X, y)
        try:
            return self._net.compute(tensor, rows, target)
        except (tf.errors.OpError, TypeError) as error:  # TypeError: the handle of a variable, not an array
            if rows is not None and target is not None:
                raise EstimatorError(f"the tensor {name!r} has no value: {error}") from None
            missing = "X and y" if rows is None else "y"
            raise EstimatorError(f"the tensor {name!r} has no value without {missing}") from None

    # -- surgery

    def graft_from(self, donor: NetEstimator | str | os.PathLike[str], **options: Unpack[GraftKeywords]) -> Report:
        """Overwrite the chosen variables with those of another model: all of them, or none.

        Plans and refuses exactly as `ckptsurgeon graft` does.

        Args:
            donor: a fitted estimator, or any spelling of a checkpoint's path, of any format.
            **options: `layers="0-2"`, `match=["**/Bias"]`, `slots="copy"`, …: those of `ckptsurgeon.graft`, each
                explained by `ckptsurgeon.surgeon.options.GraftOptions`. `add`, `link` and slots="drop" do not apply
                to a model in memory, whose variables are fixed.

        Returns:
            A report of what was done to each variable.

        Raises:
            NotFittedError: before the first `fit` of either.
            CkptSurgeonError: nothing was changed; `lines` lists every problem.
        """
        from ..surgeon.options import GraftOptions
        from . import surgery

        def in_memory(estimator: NetEstimator) -> surgery.NetCheckpoint:
            check_is_fitted(estimator)
            return surgery.NetCheckpoint(type(estimator).__name__, estimator._net)

        recipient = in_memory(self)
        source = donor if isinstance(donor, (str, os.PathLike)) else in_memory(donor)
        return surgery.graft(source, recipient, GraftOptions(**options))

    # -- scikit-learn's side

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_net")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with the variables' values instead of the session, for pickling and copying."""
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


def _whole_blocks(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows with copies of the last one, up to a multiple of _BLOCK.

    On some processors, matrix products compute the last rows of a batch by other instructions, whose last bit differs.
    In whole blocks, the prediction of a row does not depend on its place.
    """
    missing = -len(rows) % _BLOCK
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
