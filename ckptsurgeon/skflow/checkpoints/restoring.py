"""Restore estimators from the folders that `saving` and skflow of 2016 write."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ... import formats
from ...errors import CkptSurgeonError
from ...formats import state
from ...schemes.skflow_names import GLOBAL_STEP, LEARNING_RATE, matrix
from .. import public
from ..errors import EstimatorError
from . import model_definition
from .architecture import Values
from .model_definition import FittedState, as_list, names_of, shortened

if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ..net_estimator import NetEstimator

AnyEstimator = TypeVar("AnyEstimator", bound="NetEstimator")

# Parameters of skflow of 2016 that never changed what a model computes; a model.def may contain them.
_OBSOLETE = {"config", "config_addon", "early_stopping_rounds", "keep_checkpoint_every_n_hours", "tf_master"}
# Parameters that are absent from model.def only if they were functions; their defaults would train another model.
_FUNCTIONS = ("optimizer", "learning_rate")
# A moving average of the loss, which skflow kept for its summaries; not part of the model.
_SUMMARY = re.compile(r".*/avg", re.DOTALL)


def restore(cls: type[AnyEstimator], folder: str, params: dict[str, Any]) -> AnyEstimator:
    """Restore the estimator that was saved into a folder. Nothing in the folder is changed.

    Args:
        cls: the class that the model must be an instance of.
        folder: the folder.
        params: parameters that replace the saved ones.

    Raises:
        EstimatorError: the folder has no model, or it is damaged or of another class.
    """
    folder = os.fspath(folder)
    definition = model_definition.read(folder)
    kind = _kind(cls, folder, definition.pop("class_name", None))
    fitted = definition.pop("fitted", {})
    try:
        estimator = _construct(kind, folder, definition, params)
        with formats.open(_latest(folder)) as checkpoint:
            known = FittedState(estimator, checkpoint, fitted)
            _load(estimator, checkpoint, known, "learning_rate" in params)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, EstimatorError):
            raise
        raise EstimatorError(f"{model_definition.FILE} is damaged: {shortened(error)}", path=folder) from error
    except CkptSurgeonError as error:
        raise EstimatorError(
            error.what, path=error.path, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    return estimator


def _kind(cls: type[AnyEstimator], folder: str, name: object) -> type[AnyEstimator]:
    """Return the class with this name: a public skflow class, by any of its names, or a subclass of `cls`."""
    known = {each.__name__: each for each in _family(cls)}
    for public_name in [each for each in public.MODULES if each.startswith("TensorFlow")]:
        value = cast("type[Any]", public.load(public_name))
        if issubclass(value, cls):
            known.setdefault(public_name, value)
    if not isinstance(name, str) or name not in known:
        expected = " or ".join(sorted(each for each in known if not each.startswith("_")))
        found = shortened(repr(name))
        raise EstimatorError("contains a model of a different class", path=folder, expected=expected, found=found)
    return known[name]


def _family(cls: type[AnyEstimator]) -> list[type[AnyEstimator]]:
    """List a class and its subclasses; the class comes last, so that its own name refers to itself."""
    return [each for child in cls.__subclasses__() for each in _family(child)] + [cls]


def _construct(
    kind: type[AnyEstimator], folder: str, definition: Mapping[str, Any], params: Mapping[str, Any]
) -> AnyEstimator:
    """Create the estimator, without its network."""
    known = inspect.signature(kind).parameters
    saved = {name: value for name, value in definition.items() if name in known or name not in _OBSOLETE}
    weights = saved.get("class_weight")
    if isinstance(weights, dict):
        if not all(isinstance(weights.get(name), list) for name in ("labels", "weights")):
            what = "cannot use the parameter class_weight"
            raise EstimatorError(what, path=folder, expected="labels and weights", found=shortened(weights))
        labels = as_list("labels", weights["labels"])
        saved["class_weight"] = dict(zip(labels, weights["weights"], strict=False))
    given = {**saved, **params}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise EstimatorError(f"{kind.__name__} has no parameter {names_of(unknown)}", path=folder)
    needed = [name for name, each in known.items() if each.default is each.empty or name in _FUNCTIONS]
    missing = [name for name in needed if name not in given]
    if missing:
        hint = f"restore(folder, {missing[0]}=...) passes it"
        raise EstimatorError(f"the parameter {', '.join(missing)} was not saved", path=folder, hint=hint)
    estimator = kind(**given)
    try:
        estimator._check_params()
    except EstimatorError as error:
        found = None if error.found is None else shortened(error.found)
        where = os.path.join(folder, model_definition.FILE)
        raise EstimatorError(error.what, path=where, expected=error.expected, found=found, hint=error.hint) from None
    return estimator


def _latest(folder: str) -> str:
    """Return the prefix of the state file's latest checkpoint."""
    found = state.read(folder)
    if found is None:
        hint = "every folder that an estimator was saved to contains one"
        raise EstimatorError("there is no checkpoint state file", path=folder, hint=hint)
    return found.latest


def _load(estimator: NetEstimator, checkpoint: Checkpoint, fitted: FittedState, new_rate: bool) -> None:
    """Build the network, check the checkpoint's variables against it, and only then allocate memory for values."""
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
    """Compare the hidden layers with the checkpoint: building a network with many bogus layers would take too long."""
    width = features
    for number, units in enumerate(getattr(estimator, "hidden_units", None) or ()):
        name = matrix(number)
        if name not in checkpoint:
            raise EstimatorError(f"variables are missing: {name}", path=checkpoint.path)
        _check(checkpoint, name, "float32", (width, int(units)))
        width = int(units)


def _matching(estimator: NetEstimator, checkpoint: Checkpoint, new_rate: bool) -> Values:
    """Read the network's variables. Missing slots get their initial values; all else must be present and match."""
    net = estimator._net
    own = {LEARNING_RATE} if new_rate else set()  # not read from the checkpoint
    values: Values = {}
    missing = []
    for name, variable in net.variables.items():
        if name in own:
            continue
        if name not in checkpoint:
            missing.append(name)
            continue
        _check(checkpoint, name, variable.dtype.base_dtype.name, net.shapes[name])
        values[name] = checkpoint.read(name)
    needed = [name for name in missing if name in net.trainable or name in (GLOBAL_STEP, LEARNING_RATE)]
    if needed:
        raise EstimatorError(f"variables are missing: {names_of(needed)}", path=checkpoint.path)
    if missing:
        warnings.warn(f"{checkpoint.path}: missing, and therefore initialized: {', '.join(missing)}", stacklevel=5)
    unused = [name for name in checkpoint if name not in net.variables and name not in own]
    unused = [name for name in unused if checkpoint[name].shape or not _SUMMARY.fullmatch(name)]
    if unused:
        warnings.warn(f"{checkpoint.path}: not used by the model: {', '.join(unused)}", stacklevel=5)
    return values


def _check(checkpoint: Checkpoint, name: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse a variable of the wrong dtype or shape."""
    stored = checkpoint[name]
    expected, found = f"{dtype} {list(shape)}", f"{stored.dtype} {list(stored.shape)}"
    if expected != found:
        raise EstimatorError(f"{name} does not match the model", path=checkpoint.path, expected=expected, found=found)
