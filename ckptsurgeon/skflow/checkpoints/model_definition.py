"""`model.def`, a JSON file with the facts about a saved estimator that its checkpoint does not contain.

It contains the parameters that are not functions, `class_name`, and under `fitted` the labels, the feature names and
the shape of the target. A folder saved by skflow itself in 2016 has no `fitted`; its contents are then inferred from
the shapes of the variables.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import CkptSurgeonError, NotFoundError, files
from ...schemes.skflow_names import CLASSIFIER
from ..errors import EstimatorError
from ..validation import is_whole
from . import architecture

if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ..net_estimator import NetEstimator

FILE = "model.def"
_LARGEST = 1 << 24  # bytes of the file; far more than any list of labels takes
_LARGEST_SIZE = 1 << 31  # columns of X, or values per row: TensorFlow's limit for matrix products
_LONGEST = 100  # characters of a value quoted in an error
_LABELS = re.compile(r"[<>|=]?[biuf][1248]|\|O")  # dtypes of labels; for text, NumPy takes the longest label's length


def encode(estimator: NetEstimator, folder: str) -> bytes:
    """Return the contents of the file for a fitted estimator.

    Args:
        estimator: the estimator.
        folder: where it will be saved, for errors.

    Raises:
        EstimatorError: a parameter or label cannot be stored as JSON, or there is too much of it.
    """
    try:
        definition = json.dumps(_definition(estimator), sort_keys=True).encode()
    except TypeError as error:
        raise EstimatorError(f"a parameter or label cannot be written as JSON: {error}", path=folder) from error
    if len(definition) > _LARGEST:
        expected, found = f"at most {_LARGEST} bytes", len(definition)
        raise EstimatorError(f"{FILE} would be too large", path=folder, expected=expected, found=found)
    return definition


def _definition(estimator: NetEstimator) -> dict[str, Any]:
    params = {name: value for name, value in estimator.get_params(deep=False).items() if not callable(value)}
    fitted: dict[str, Any] = {"features": estimator.n_features_in_, "target": estimator._target}
    if estimator._classifies:
        fitted["classes"] = estimator.classes_
        fitted["dtype"] = estimator.classes_.dtype.str
    if hasattr(estimator, "feature_names_in_"):
        fitted["feature_names"] = estimator.feature_names_in_
    if isinstance(weights := params.get("class_weight"), Mapping):  # JSON allows only text as keys
        params["class_weight"] = {"labels": list(weights), "weights": list(weights.values())}
    return cast("dict[str, Any]", _plain({**params, "class_name": type(estimator).__name__, "fitted": fitted}))


def _plain(value: Any) -> Any:
    """Convert NumPy numbers and arrays to JSON types."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _plain(value.tolist()) if isinstance(value, (np.ndarray, np.generic)) else value


def read(folder: str) -> dict[str, Any]:
    """Read the file in a folder.

    Raises:
        EstimatorError: there is no such file, or it is damaged.
    """
    path = os.path.join(folder, FILE)
    try:
        with files(path), open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise EstimatorError("is too large", path=path, expected=f"at most {_LARGEST} bytes")
        definition = json.loads(text)
    except NotFoundError:
        hint = "every folder that an estimator was saved to contains one"
        raise EstimatorError(f"there is no {FILE}", path=folder, hint=hint) from None
    except EstimatorError:
        raise
    except CkptSurgeonError as error:
        raise EstimatorError(error.what, path=error.path) from error
    except (ValueError, RecursionError) as error:
        raise EstimatorError(f"is not JSON: {error}", path=path) from error
    if not isinstance(definition, dict):
        raise EstimatorError("is not a JSON object", path=path, found=type(definition).__name__)
    return definition


class FittedState:
    """The checked contents of `fitted`: facts about a model that its variables do not show.

    Attributes:
        features: columns of X.
        target: the shape of one row's target.
        classes: the labels, [n_classes]; None for a regressor.
        names: names of the features; None if they had none.

    Args:
        estimator: the estimator, with its parameters.
        checkpoint: its variables, from which missing facts are inferred.
        fitted: the value in model.def; empty if skflow itself wrote the file.

    Raises:
        EstimatorError, RefusedError, KeyError, ValueError: the facts are invalid or inconsistent.
    """

    def __init__(self, estimator: NetEstimator, checkpoint: Checkpoint, fitted: Any) -> None:
        if not isinstance(fitted, dict):
            raise ValueError("fitted is not an object")
        if not fitted:
            net = architecture.of(checkpoint.variables)
            target = (net.outputs,) if net.head == CLASSIFIER or net.outputs > 1 else ()
            fitted = {"features": net.features, "target": target, "classes": list(range(net.outputs))}
        self.features = fitted["features"]
        self.target = tuple(as_list("target", fitted["target"]))
        if len(self.target) > 1 or not all(
            is_whole(size, 1) and size < _LARGEST_SIZE for size in (self.features, *self.target)
        ):
            raise ValueError("features and target are not valid sizes")
        self.classes: NDArray[Any] | None = None
        self.names: NDArray[Any] | None = None
        if estimator._classifies:
            labels = as_list("classes", fitted["classes"])
            self.classes = np.array(labels)
            if _LABELS.fullmatch(dtype := str(fitted.get("dtype", ""))):
                self.classes = self.classes.astype(dtype)
            count = estimator.n_classes or len(labels)  # None: as many as labels
            if self.classes.shape != (count,) or self.target != (count,):
                raise ValueError(f"{count} classes, but {len(labels)} labels")
        if "feature_names" in fitted:
            self.names = np.array(as_list("feature_names", fitted["feature_names"]), dtype=object)
            if self.names.shape != (self.features,) or not all(isinstance(name, str) for name in self.names):
                raise ValueError(f"feature_names are not the names of {self.features} features")


def as_list(name: str, value: object) -> list[Any]:
    """Return a value of the file as a list of text and numbers.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, (str, int, float)) for each in value):
        raise ValueError(f"{name} is not a list")
    return list(value)


def shortened(value: object) -> str:
    """Return a value as text, cut to a length suited to errors."""
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def names_of(names: Iterable[str]) -> str:
    """Return at most five of the names, as text for errors."""
    names = list(names)
    return ", ".join([shortened(name) for name in names[:5]] + ["…"] * (len(names) > 5))
