"""Checks of the estimators' parameters, labels and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from ..schemes.skflow_names import SLOTS
from .errors import EstimatorError

DIVERGED = "a smaller learning_rate or scaled features may help"


def is_whole(value: object, least: int) -> bool:
    """Tell whether a value is an integer, of Python or NumPy, and at least `least`."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _is_widths(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(is_whole(units, 1) for units in value)


def _is_weight(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_number(weight) and float(weight) >= 0 for weight in value.values())
    return value is None or (isinstance(value, (list, tuple, np.ndarray)) and all(map(_is_number, value)))


# Parameter -> the valid values, as text and as a test.
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "hidden_units": ("a list of whole numbers from 1", _is_widths),
    "n_classes": ("a whole number from 0, or None", lambda n: n is None or is_whole(n, 0)),
    "batch_size": ("a whole number from 1", lambda n: is_whole(n, 1)),
    "steps": ("a whole number from 1", lambda n: is_whole(n, 1)),
    "optimizer": (
        f"{', '.join(SLOTS)} or a function",
        lambda o: callable(o) or (isinstance(o, str) and o in SLOTS),
    ),
    "learning_rate": ("a positive number or a function", lambda r: callable(r) or (_is_number(r) and r > 0)),
    "clip_gradients": ("a number from 0", lambda c: c is None or (_is_number(c) and c >= 0)),
    "class_weight": ("a list of numbers, or a dict of labels and numbers from 0", _is_weight),
    "dropout": (
        "a number from 0 up to but not including 1, or None",
        lambda d: d is None or (_is_number(d) and 0 <= d < 1),
    ),
    "tf_random_seed": ("a whole number from 0", lambda n: is_whole(n, 0)),
    "num_cores": ("a whole number from 1", lambda n: is_whole(n, 1)),
    "max_to_keep": ("a whole number from 0, or None", lambda n: n is None or is_whole(n, 0)),
}


def check_params(params: Mapping[str, Any]) -> None:
    """Refuse the first invalid parameter.

    Raises:
        EstimatorError: names the parameter and its valid values.
    """
    for name, (expected, holds) in _RULES.items():
        if name in params and not holds(params[name]):
            raise EstimatorError(f"cannot use the parameter {name}", expected=expected, found=repr(params[name]))


def class_labels(y: Any, n_classes: int | None) -> NDArray[Any]:
    """Return the labels for `classes_`, [n_classes].

    If all labels are class numbers, 0 … n_classes-1, some may be missing from y: output k stands for number k, as in
    skflow. Other labels must all be present; they are sorted.

    Args:
        y: the labels.
        n_classes: number of classes; None for the number of labels in y.

    Raises:
        ValueError: y contains values with fractions instead of labels.
        EstimatorError: the number of labels is not that of the classes.
    """
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None), warn=True)
    check_classification_targets(y)
    given = np.unique(y)
    if n_classes is None:
        if len(given) < 2:
            more = "n_classes=... or partial_fit(..., classes=...) lists all classes"
            raise EstimatorError(f"y contains only 1 class, {_some(given)}", expected="2 or more", hint=more)
        return given
    numbers = np.arange(n_classes)
    if given.dtype.kind in "iuf" and np.isin(given, numbers).all():
        return numbers.astype(given.dtype)
    if len(given) != n_classes:
        hint = None if len(given) > n_classes else "partial_fit(..., classes=...) lists all labels"
        raise EstimatorError("wrong number of labels", expected=n_classes, found=_some(given), hint=hint)
    return given


def class_numbers(y: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return the position of each label of y in `labels`, which are sorted.

    Raises:
        EstimatorError: y contains an unknown label.
    """
    if y.ndim != 1:
        y = column_or_1d(y)
    try:
        positions = np.searchsorted(labels, y).clip(max=len(labels) - 1)
    except TypeError:  # text among numbers
        raise EstimatorError("the labels in y have a different type", expected=_some(labels), found=_some(y)) from None
    unknown = labels[positions] != y
    if unknown.any():
        raise EstimatorError("y has an unknown label", expected=_some(labels), found=_some(y[unknown]))
    return positions


Weights = tuple[float, ...] | None


def class_weights(
    given: Sequence[float] | Mapping[Any, float] | None, labels: NDArray[Any] | None
) -> tuple[Weights, Weights]:
    """Return the factors of the logits and of the rows' losses, one per label; None if all are 1.

    Args:
        given: the parameter `class_weight`; a list is for the logits, a dict for the losses.
        labels: labels of the classes; None for a regressor.

    Raises:
        EstimatorError: `class_weight` does not match the labels.
    """
    if given is None:
        return None, None
    if labels is None:
        raise EstimatorError("class_weight is given, but there are no classes", hint="n_classes=... makes a classifier")
    names = labels.tolist()
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            raise EstimatorError("class_weight has the wrong length", expected=len(names), found=len(given))
        return tuple(float(weight) for weight in given), None
    # A dict that was saved as JSON has text keys.
    known = {label: name for name in names for label in (str(name), name)}
    unknown = [label for label in given if label not in known]
    if unknown:
        raise EstimatorError(
            "class_weight has unknown labels", expected=_some(labels), found=_some(np.array(list(map(str, unknown))))
        )
    by_name = {known[label]: float(weight) for label, weight in given.items()}
    factors = [by_name.get(name, 1.0) for name in names]
    mean = sum(factors) / len(factors)
    if not mean:
        raise EstimatorError("every class_weight is 0", expected="at least one number above 0")
    return None, tuple(factor / mean for factor in factors)


def is_plain(X: object, y: object, features: int) -> bool:
    """Tell whether X and y are arrays that match each other and the model, so that only X's values need a check.

    scikit-learn's own checks take as long as a training step of a small network.
    """
    return (
        type(X) is np.ndarray
        and type(y) is np.ndarray
        and X.ndim == 2
        and X.dtype.kind in "fiu"
        and X.shape[1] == features
        and 0 < y.ndim < 3
        and len(y) == len(X) > 0
        and (y.dtype.kind in "iubU" or (y.dtype.kind == "f" and bool(np.isfinite(y).all())))
    )


def check_same_labels(labels: NDArray[Any], before: NDArray[Any]) -> None:
    """Refuse labels that differ from the model's.

    Raises:
        EstimatorError: they differ.
    """
    if not np.array_equal(labels, before):
        raise EstimatorError("the classes differ from the model's", expected=_some(before), found=_some(labels))


def _some(labels: NDArray[Any]) -> str:
    """Return at most five labels, as text for errors."""
    names = [str(label) for label in np.unique(labels)[:6]]
    return ", ".join(names[:5] + ["…"] * (len(names) > 5))


def target_values(y: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Return a regressor's target values and the shape of one row's; a single column becomes one value per row."""
    target = (y[:, 0] if y.shape[1:] == (1,) else y).astype(np.float32)
    return target, target.shape[1:]


def check_loss(loss: float, step: int) -> None:
    """Raise EstimatorError if the loss of a step of this call, counted from 0, is not finite."""
    if not math.isfinite(loss):
        raise EstimatorError(f"the loss is {loss} in step {step + 1} of this call", hint=DIVERGED)


_NAMES: dict[type, list[str]] = {}


def parameter_names(cls: Any) -> list[str]:
    """Return the names of a class's parameters; cached, since scikit-learn's lookup takes a tenth of a step."""
    if cls not in _NAMES:
        _NAMES[cls] = cls._get_param_names()
    return _NAMES[cls]
