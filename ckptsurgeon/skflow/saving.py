"""Save and restore estimators: skflow's folder, with checkpoints in TensorFlow's V2 format.

    model.def                   JSON: the parameters that are no functions, `class_name`, and under `fitted` what the
                                variables do not tell (labels, names of the features, shape of the target)
    endpoints                   four names of tensors, a line each: input, output, predictions, loss
    checkpoint                  the state file; its paths are relative, so the folder may be moved
    model-<global_step>.index, .data-00000-of-00001

Order on disk: the new checkpoint, endpoints and model.def, the state file that names the checkpoint, and only then
are old checkpoints removed. skflow's `graph.pbtxt` and `saver.pbtxt` held the graph, which the class rebuilds here.

A folder that skflow itself saved in 2016 has no `fitted`, and its checkpoint is of TensorFlow's first format. What
`fitted` would say is then read off the shapes of the variables.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from .. import formats
from ..errors import CkptSurgeonError, NotFoundError, files
from ..formats import state
from ..formats.bundle import writing as bundle_writing
from ..publish import write_file
from . import architecture, public
from .architecture import CLASSIFIER, Values
from .errors import EstimatorError
from .validation import is_whole

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from .net_estimator import NetEstimator

AnyEstimator = TypeVar("AnyEstimator", bound="NetEstimator")

# Parameters of skflow of 2016 that never changed what a model computes; a model.def may hold them.
_OBSOLETE = {"config", "config_addon", "early_stopping_rounds", "keep_checkpoint_every_n_hours", "tf_master"}
# Parameters that a model.def lacks only where they were functions: their defaults would train another model.
_FUNCTIONS = ("optimizer", "learning_rate")
_DEFINITION = "model.def"
_ENDPOINTS = "endpoints"
_LARGEST_DEFINITION = 1 << 24  # bytes; far above any list of labels
_LARGEST_SIZE = 1 << 31  # columns of X, or values of a row; what TensorFlow can multiply
_LONGEST = 100  # characters of something found that an error repeats
# A moving average of the loss, kept by skflow for its summaries; no part of the model.
_SUMMARY = re.compile(r".*/avg", re.DOTALL)
_LABELS = re.compile(r"[<>|=]?[biuf][1248]|\|O")  # dtypes of labels; text has the length of the longest


def save(estimator: NetEstimator, folder: str) -> None:
    """Save a fitted estimator into a folder, which is made if need be.

    Raises:
        CkptSurgeonError: the folder cannot be written.
    """
    folder = os.fspath(folder)
    net = estimator._net
    values = net.values()
    try:
        definition = json.dumps(_definition(estimator), sort_keys=True).encode()
    except TypeError as error:
        raise EstimatorError(f"a parameter or label cannot be written as JSON: {error}", path=folder) from error
    if len(definition) > _LARGEST_DEFINITION:
        expected, found = f"at most {_LARGEST_DEFINITION} bytes", len(definition)
        raise EstimatorError(f"{_DEFINITION} would be too large", path=folder, expected=expected, found=found)
    endpoints = "\n".join(tensor.name for tensor in (net.X, net.y, net.predictions, net.loss))
    prefix = os.path.join(folder, f"model-{int(values['global_step'])}")
    with files(folder):
        os.makedirs(folder, exist_ok=True)
    before = state.read(folder)
    formats.write(prefix, values)
    write_file(os.path.join(folder, _ENDPOINTS), endpoints.encode())
    write_file(os.path.join(folder, _DEFINITION), definition)
    keep = [path for path in (before.all if before else []) if not _same(path, prefix)] + [prefix]
    limit = estimator.max_to_keep or 0
    if not limit:  # as TensorFlow's Saver: nothing is deleted, the latest alone is listed
        state.write(folder, prefix, [prefix])
        return
    state.write(folder, prefix, keep[-limit:])
    for old in keep[:-limit]:
        # A state file may name anything: only what `save` itself may have written here is removed. That spares the
        # checkpoints of 2016 too, which are of another format.
        if re.fullmatch(r"model-[0-9]+", os.path.basename(old)) and _same(os.path.dirname(old), folder):
            bundle_writing.delete(old)


def restore(cls: type[AnyEstimator], folder: str, params: dict[str, Any]) -> AnyEstimator:
    """Give back the estimator that was saved into a folder. Nothing in the folder is changed.

    Args:
        cls: the class that the model must be of.
        folder: the folder.
        params: parameters that take the place of the saved ones.

    Raises:
        EstimatorError: there is no model in the folder, it is damaged, or of another class.
    """
    folder = os.fspath(folder)
    definition = _read_definition(folder)
    kind = _kind(cls, folder, definition.pop("class_name", None))
    fitted = definition.pop("fitted", {})
    try:
        estimator = _construct(kind, folder, definition, params)
        with formats.open(_latest(folder)) as checkpoint:
            known = _Fitted(estimator, checkpoint, fitted)
            _load(estimator, checkpoint, known, "learning_rate" in params)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, EstimatorError):
            raise
        raise EstimatorError(f"{_DEFINITION} is damaged: {_short(error)}", path=folder) from error
    except CkptSurgeonError as error:
        raise EstimatorError(
            error.what, path=error.path, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    return estimator


def _kind(cls: type[AnyEstimator], folder: str, name: object) -> type[AnyEstimator]:
    """Return the class of this name: a public one of skflow, by any of its names, or one that derives from `cls`."""
    known = {each.__name__: each for each in _family(cls)}
    for public_name in [each for each in public.MODULES if each.startswith("TensorFlow")]:
        value = cast("type[Any]", public.load(public_name))
        if issubclass(value, cls):
            known.setdefault(public_name, value)
    if not isinstance(name, str) or name not in known:
        expected = " or ".join(sorted(each for each in known if not each.startswith("_")))
        found = _short(repr(name))
        raise EstimatorError("holds a model of another class", path=folder, expected=expected, found=found)
    return known[name]


def _family(cls: type[AnyEstimator]) -> list[type[AnyEstimator]]:
    """List a class after all that derive from it, so that its own name means itself."""
    return [each for child in cls.__subclasses__() for each in _family(child)] + [cls]


def _definition(estimator: NetEstimator) -> dict[str, Any]:
    params = {name: value for name, value in estimator.get_params(deep=False).items() if not callable(value)}
    fitted: dict[str, Any] = {"features": estimator.n_features_in_, "target": estimator._target}
    if estimator._classifies:
        fitted["classes"] = estimator.classes_
        fitted["dtype"] = estimator.classes_.dtype.str
    if hasattr(estimator, "feature_names_in_"):
        fitted["feature_names"] = estimator.feature_names_in_
    if isinstance(weights := params.get("class_weight"), Mapping):  # JSON has no labels but text as keys
        params["class_weight"] = {"labels": list(weights), "weights": list(weights.values())}
    return cast("dict[str, Any]", _plain({**params, "class_name": type(estimator).__name__, "fitted": fitted}))


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays into what JSON knows."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _plain(value.tolist()) if isinstance(value, (np.ndarray, np.generic)) else value


def _read_definition(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, _DEFINITION)
    try:
        with files(path), open(path, "rb") as file:
            text = file.read(_LARGEST_DEFINITION + 1)
        if len(text) > _LARGEST_DEFINITION:
            raise EstimatorError("is too large", path=path, expected=f"at most {_LARGEST_DEFINITION} bytes")
        definition = json.loads(text)
    except NotFoundError:
        hint = "a folder that an estimator was saved into has one"
        raise EstimatorError(f"there is no {_DEFINITION}", path=folder, hint=hint) from None
    except EstimatorError:
        raise
    except CkptSurgeonError as error:
        raise EstimatorError(error.what, path=error.path) from error
    except (ValueError, RecursionError) as error:
        raise EstimatorError(f"is not JSON: {error}", path=path) from error
    if not isinstance(definition, dict):
        raise EstimatorError("is no JSON object", path=path, found=type(definition).__name__)
    return definition


def _construct(
    kind: type[AnyEstimator], folder: str, definition: Mapping[str, Any], params: Mapping[str, Any]
) -> AnyEstimator:
    """Make the estimator, without its network."""
    known = inspect.signature(kind).parameters
    saved = {name: value for name, value in definition.items() if name in known or name not in _OBSOLETE}
    weights = saved.get("class_weight")
    if isinstance(weights, dict):
        if not all(isinstance(weights.get(name), list) for name in ("labels", "weights")):
            what = "cannot use the parameter class_weight"
            raise EstimatorError(what, path=folder, expected="labels and weights", found=_short(weights))
        saved["class_weight"] = {
            label: weight for label, weight in zip(_list("labels", weights["labels"]), weights["weights"], strict=False)
        }
    given = {**saved, **params}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise EstimatorError(f"{kind.__name__} has no parameter {_some(unknown)}", path=folder)
    needed = [name for name, each in known.items() if each.default is each.empty or name in _FUNCTIONS]
    missing = [name for name in needed if name not in given]
    if missing:
        hint = f"restore(folder, {missing[0]}=...) gives it"
        raise EstimatorError(f"the parameter {', '.join(missing)} is not saved", path=folder, hint=hint)
    estimator = kind(**given)
    try:
        estimator._check_params()
    except EstimatorError as error:
        found = None if error.found is None else _short(error.found)
        where = os.path.join(folder, _DEFINITION)
        raise EstimatorError(error.what, path=where, expected=error.expected, found=found, hint=error.hint) from None
    return estimator


def _latest(folder: str) -> str:
    """Name the checkpoint that the state file calls the latest."""
    found = state.read(folder)
    if found is None:
        hint = "a folder that an estimator was saved into has one"
        raise EstimatorError("there is no checkpoint state file", path=folder, hint=hint)
    return found.latest


class _Fitted:
    """What the variables alone do not tell of a model, checked.

    Attributes:
        features: columns of X.
        target: the shape of the target beyond the rows.
        classes: the labels, [n_classes]; None for a regressor.
        names: of the features; None if they had none.

    Args:
        estimator: with its parameters.
        checkpoint: its variables; they stand in for what is missing.
        fitted: of model.def; empty if skflow itself wrote it.

    Raises:
        EstimatorError, RefusedError, KeyError, ValueError: something does not fit.
    """

    def __init__(self, estimator: NetEstimator, checkpoint: Checkpoint, fitted: Any) -> None:
        if not isinstance(fitted, dict):
            raise ValueError("fitted is no object")
        if not fitted:
            net = architecture.of(checkpoint.variables)
            target = (net.outputs,) if net.head == CLASSIFIER or net.outputs > 1 else ()
            fitted = {"features": net.features, "target": target, "classes": list(range(net.outputs))}
        self.features = fitted["features"]
        self.target = tuple(_list("target", fitted["target"]))
        if len(self.target) > 1 or not all(
            is_whole(size, 1) and size < _LARGEST_SIZE for size in (self.features, *self.target)
        ):
            raise ValueError("features and target are no sizes")
        self.classes: NDArray[Any] | None = None
        self.names: NDArray[Any] | None = None
        if estimator._classifies:
            labels = _list("classes", fitted["classes"])
            self.classes = np.array(labels)
            if _LABELS.fullmatch(dtype := str(fitted.get("dtype", ""))):
                self.classes = self.classes.astype(dtype)
            count = estimator.n_classes or len(labels)  # None: they are as many as there are labels
            if self.classes.shape != (count,) or self.target != (count,):
                raise ValueError(f"{count} classes, but {len(labels)} labels")
        if "feature_names" in fitted:
            self.names = np.array(_list("feature_names", fitted["feature_names"]), dtype=object)
            if self.names.shape != (self.features,) or not all(isinstance(name, str) for name in self.names):
                raise ValueError(f"feature_names are not the names of {self.features} features")


def _list(name: str, value: object) -> list[Any]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, (str, int, float)) for each in value):
        raise ValueError(f"{name} is no list")
    return list(value)


def _load(estimator: NetEstimator, checkpoint: Checkpoint, fitted: _Fitted, new_rate: bool) -> None:
    """Build the network, check the checkpoint's variables against it, and only then take memory for values."""
    _check_layers(estimator, checkpoint, fitted.features)
    estimator.n_features_in_ = int(fitted.features)
    if fitted.names is not None:
        estimator.feature_names_in_ = fitted.names
    if fitted.classes is not None:
        estimator.classes_ = fitted.classes
    estimator._build(estimator.n_features_in_, tuple(int(size) for size in fitted.target))
    values = _matching(estimator, checkpoint, new_rate)
    estimator._net.initialize()
    estimator._net.write(values)


def _check_layers(estimator: NetEstimator, checkpoint: Checkpoint, features: int) -> None:
    """Compare the hidden layers with the checkpoint first: to build many that are not there would take for ever."""
    width = features
    for number, units in enumerate(getattr(estimator, "hidden_units", None) or ()):
        name = architecture.matrix(number)
        if name not in checkpoint:
            raise EstimatorError(f"variables are missing: {name}", path=checkpoint.path)
        _check(checkpoint, name, "float32", (width, int(units)))
        width = int(units)


def _matching(estimator: NetEstimator, checkpoint: Checkpoint, new_rate: bool) -> Values:
    """Read what the network needs; a slot may be missing and begins anew, everything else must be there and fit."""
    net = estimator._net
    own = {"learning_rate"} if new_rate else set()  # what is not to be read
    values: Values = {}
    missing = []
    for name, variable in net.variables.items():
        if name in own:
            continue
        if name not in checkpoint:
            missing.append(name)
            continue
        _check(checkpoint, name, variable.dtype.base_dtype.name, tuple(variable.shape))
        values[name] = checkpoint.read(name)
    needed = [name for name in missing if name in net.trainable or name in ("global_step", "learning_rate")]
    if needed:
        raise EstimatorError(f"variables are missing: {_some(needed)}", path=checkpoint.path)
    if missing:
        warnings.warn(f"{checkpoint.path}: begin anew, as they are missing: {', '.join(missing)}", stacklevel=5)
    unused = [name for name in checkpoint if name not in net.variables and name not in own]
    unused = [name for name in unused if checkpoint[name].shape or not _SUMMARY.fullmatch(name)]
    if unused:
        warnings.warn(f"{checkpoint.path}: not used by the model: {', '.join(unused)}", stacklevel=5)
    return values


def _check(checkpoint: Checkpoint, name: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse a variable of another dtype or shape."""
    stored = checkpoint[name]
    expected, found = f"{dtype} {list(shape)}", f"{stored.dtype} {list(stored.shape)}"
    if expected != found:
        raise EstimatorError(f"{name} does not fit the model", path=checkpoint.path, expected=expected, found=found)


def _same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)


def _short(value: object) -> str:
    """Cut what an error repeats."""
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _some(names: Iterable[str]) -> str:
    """Name at most five of them."""
    names = list(names)
    return ", ".join([_short(name) for name in names[:5]] + ["…"] * (len(names) > 5))
