"""SharedTrunkEnsemble: models that share their first layers, trained as by `ring run`, but in one process.

    member = skflow.TensorFlowDNNClassifier([10, 20, 10], n_classes=3, optimizer="Adagrad")
    ensemble = skflow.SharedTrunkEnsemble(member, layers="0-1", n_models=3).fit(X, y)
    ensemble.predict(X)

Its members get the same weights, bit for bit, as the built-in trainer gives to the models of a ring with the same
settings and no held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ..data import Batches
from ..errors import CkptSurgeonError
from ..ring.schedule import Schedule
from ..ring.spec.records import Stop
from ..surgeon.slots import SlotPolicy
from .dnn import TensorFlowDNNClassifier, TensorFlowDNNRegressor, _TensorFlowDNN
from .errors import EstimatorError
from .in_process_ring import InProcessRing, model_names
from .validation import class_numbers, is_whole, target_values

Self = TypeVar("Self", bound="SharedTrunkEnsemble")

_N_MODELS = 3
_KINDS = (TensorFlowDNNClassifier, TensorFlowDNNRegressor)


class SharedTrunkEnsemble(BaseEstimator):  # type: ignore[misc]  # scikit-learn comes without types
    """Models that share their first layers and have their own heads; the ensemble predicts their mean.

    In every round, each model trains on the same mini-batch and passes its trunk to the next; at the end of the round
    all models get the trunk of the last one. The ensemble is a classifier if its members are.

    Args:
        estimator: a TensorFlowDNNClassifier or TensorFlowDNNRegressor, fitted or not, to copy for each member; or a
            list of them, which may differ outside the trunk. Their `batch_size` is that of a round; their `steps`,
            `verbose`, `continue_training` and `tf_random_seed` are ignored.
        layers: the trunk, a range of hidden layers such as "0-1", "0,2" or "all".
        n_models: number of members; None for 3, or the length of the list.
        schedule: "ring"; or "average", where the trunk becomes the mean of all members' trunks.
        warmup: number of initial rounds in which members do not share the trunk.
        slots: what to do with the trunk's optimizer slots: "keep", "copy" or "fill=NUMBER".
        rounds: maximum number of mini-batches per call of `fit` or `partial_fit`.
        tolerance: the call ends when all members have converged. A member has converged when the mean of its weights
            over `window` rounds differs from the previous mean by at most this share of its norm. None: no such end.
        trunk_tolerance: the call also ends when the trunk has changed by at most this share. None: no such end.
        window: rounds per block; the mean of each block is compared with that of the previous one.
        seed: determines all initial weights and the order of the rows.
        verbose: 0 is silent; 1 or more prints a line whenever the change of the weights is measured.

    Attributes:
        estimators_: the fitted members. Weights set in them are used by the next `partial_fit`; the trunk of a ring is
            taken from the first member.
        classes_: the labels, [n_classes], of a classifier.
        n_features_in_: columns of X.
        n_rounds_: rounds since the members were created.
        change_: each member's change of weights when last measured in the last call; None if it was not.
        converged_: whether the last call ended because the members or the trunk had converged.
    """

    estimators_: list[_TensorFlowDNN]
    classes_: NDArray[Any]
    n_features_in_: int
    n_rounds_: int
    change_: list[float] | None
    converged_: bool
    _run: InProcessRing

    def __init__(
        self,
        estimator: _TensorFlowDNN | Sequence[_TensorFlowDNN],
        layers: str = "all",
        n_models: int | None = None,
        schedule: str = "ring",
        warmup: int = 0,
        slots: str = "keep",
        rounds: int = 5000,
        tolerance: float | None = 1e-2,
        trunk_tolerance: float | None = None,
        window: int = 20,
        seed: int = 42,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.layers = layers
        self.n_models = n_models
        self.schedule = schedule
        self.warmup = warmup
        self.slots = slots
        self.rounds = rounds
        self.tolerance = tolerance
        self.trunk_tolerance = trunk_tolerance
        self.window = window
        self.seed = seed
        self.verbose = verbose

    # -- training

    def fit(self: Self, X: Any, y: Any) -> Self:
        """Train new members until they converge or all rounds are done.

        Args:
            X: numbers, [rows, features].
            y: labels [rows], or values [rows] or [rows, outputs].

        Raises:
            EstimatorError: a parameter, X or y is invalid, or the loss or weights are no longer finite.
        """
        return self._fit(X, y, new=True)

    def partial_fit(self: Self, X: Any, y: Any, classes: Any = None) -> Self:
        """Continue training the members, for `rounds` more rounds or until they converge.

        The count of rounds continues: on the same rows, two calls are equivalent to one with all their rounds. Trunk,
        schedule and window stay as they were in the first call.

        Args:
            X: numbers, [rows, features].
            y: labels [rows], or values [rows] or [rows, outputs].
            classes: all labels, for a first call whose rows lack some.

        Raises:
            EstimatorError: as for `fit`.
        """
        return self._fit(X, y, new=not self.__sklearn_is_fitted__(), classes=classes)

    def _fit(self: Self, X: Any, y: Any, new: bool, classes: Any = None) -> Self:
        self._check_params()
        members = self._new_members() if new else self.estimators_
        classifies = members[0]._classifies
        X, y = validate_data(
            self, X, y, reset=new, dtype=np.float32, order="C", y_numeric=not classifies, multi_output=True
        )
        labels: NDArray[Any] | None = None
        shape: tuple[int, ...]
        if classifies:
            labels = members[0]._labels(y, new, classes, whole=True)
            target, shape = class_numbers(y, labels), (len(labels),)
        else:
            target, shape = target_values(y)
        if new:
            self._begin(members, X.shape[1], shape, labels)
        elif shape != members[0]._target:
            expected, found = (f"{list(each) or 'one value'} a row" for each in (members[0]._target, shape))
            raise EstimatorError("y has a different shape than before", expected=expected, found=found)
        batches = Batches(len(X), members[0].batch_size, int(self.seed))
        stop = Stop(
            tolerance=self.tolerance,
            trunk_tolerance=self.trunk_tolerance,
            window=self.window,
            rounds=self._run.round + self.rounds,
        )
        try:
            done = self._run.go(X, target, batches, stop, print if self.verbose else _silent)
        except EstimatorError:  # the loss or weights are no longer finite: there is nothing to continue from
            del self.estimators_
            raise
        self.n_rounds_, self.converged_ = done.round, done.reason == "converged"
        self.change_ = None if self._run.change is None else [self._run.change[name] for name in self._run.names]
        return self

    def _begin(
        self, members: list[_TensorFlowDNN], features: int, shape: tuple[int, ...], labels: NDArray[Any] | None
    ) -> None:
        """Adopt new members, and give them networks."""
        schedule = Schedule(model_names(len(members)), cast("Any", self.schedule), int(self.warmup))
        settings: dict[str, Any] = {"layers": self.layers, "schedule": schedule, "slots": self.slots}
        settings |= {"window": int(self.window), "seed": int(self.seed)}
        self._run = InProcessRing(members, features, shape, labels, **settings)
        self.estimators_ = members
        if labels is not None:
            self.classes_ = labels

    def _new_members(self) -> list[_TensorFlowDNN]:
        """Return new, unfitted members."""
        given = self.estimator
        several = isinstance(given, (list, tuple))
        templates: list[Any] = list(cast("Any", given)) if several else [given] * (self.n_models or _N_MODELS)
        if not any(all(isinstance(each, kind) for each in templates) for kind in _KINDS) or len(templates) < 2:
            expected = "one DNN, or two or more in a list; all classifiers, or all regressors"
            found = ", ".join(sorted({type(each).__name__ for each in templates})) or "none"
            raise EstimatorError("cannot use the parameter estimator", expected=expected, found=found)
        if self.n_models not in (None, len(templates)):
            expected = f"{len(templates)}, as there are estimators"
            raise EstimatorError("cannot use the parameter n_models", expected=expected, found=self.n_models)
        for name in ("batch_size", "n_classes"):
            values = {getattr(each, name): None for each in templates}
            if len(values) > 1:
                raise EstimatorError(f"the members differ in {name}", found=" and ".join(map(repr, values)))
        members = [clone(each) for each in templates]
        for member in members:
            member._check_params()
        return members

    def _check_params(self) -> None:
        """Refuse the first invalid parameter."""
        rules = {
            "layers": ('a range such as "0-1"', isinstance(self.layers, str)),
            "n_models": ("a whole number from 2", self.n_models is None or is_whole(self.n_models, 2)),
            "schedule": ('"ring" or "average"', self.schedule in ("ring", "average")),
            "warmup": ("a whole number from 0", is_whole(self.warmup, 0)),
            "slots": ('"keep", "copy" or "fill=NUMBER"', _is_policy(self.slots)),
            "rounds": ("a whole number from 1", is_whole(self.rounds, 1)),
            "tolerance": ("a number from 0, or None", self.tolerance is None or _is_share(self.tolerance)),
            "trunk_tolerance": (
                "a number from 0, or None",
                self.trunk_tolerance is None or _is_share(self.trunk_tolerance),
            ),
            "window": ("a whole number from 1", is_whole(self.window, 1)),
            "seed": ("a whole number from 0", is_whole(self.seed, 0)),
        }
        for name, (expected, holds) in rules.items():
            if not holds:
                found = repr(getattr(self, name))
                raise EstimatorError(f"cannot use the parameter {name}", expected=expected, found=found)

    # -- prediction

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict each row's label with the largest mean probability, or its mean value.

        Args:
            X: numbers, [rows, features].

        Returns:
            Labels, [rows]; or float32 values, [rows] or [rows, outputs].

        Raises:
            NotFittedError: before the first `fit`.
        """
        if not self._classifies:
            return self._mean("predict", X)
        means = self._mean("predict_proba", X)
        labels: NDArray[Any] = self.classes_[means.argmax(axis=1)]
        return labels

    @available_if(lambda self: self._classifies)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return the mean of the members' probabilities, in the order of `classes_`; float32 [rows, n_classes].

        Args:
            X: numbers, [rows, features].

        Raises:
            NotFittedError: before the first `fit`.
        """
        return self._mean("predict_proba", X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return a classifier's accuracy, or a regressor's coefficient of determination, R².

        Args:
            X: numbers, [rows, features].
            y: labels [rows], or values [rows] or [rows, outputs].
            sample_weight: weight of each row, [rows].

        Raises:
            NotFittedError: before the first `fit`.
        """
        measure = accuracy_score if self._classifies else r2_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    def _mean(self, method: str, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32, order="C")
        votes = [getattr(member, method)(X) for member in self.estimators_]
        return cast("NDArray[np.float32]", np.mean(votes, axis=0))

    # -- scikit-learn's side

    @property
    def _template(self) -> Any:
        """The first of the estimators."""
        given: Any = self.estimator
        return given[0] if isinstance(given, (list, tuple)) and given else given

    @property
    def _classifies(self) -> bool:
        return bool(is_classifier(self._template))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if isinstance(self._template, BaseEstimator):
            theirs = get_tags(self._template)
            for name in ("estimator_type", "classifier_tags", "regressor_tags", "target_tags", "input_tags"):
                setattr(tags, name, getattr(theirs, name))
        return tags


def _is_policy(value: Any) -> bool:
    try:
        return SlotPolicy(value).action != "drop"
    except (CkptSurgeonError, AttributeError):
        return False


def _is_share(value: Any) -> bool:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return number and 0 <= float(value) < math.inf


def _silent(line: str) -> None:
    """Print nothing."""
