"""Save and restore estimators: skflow's folder, with checkpoints in TensorFlow's V2 format.

    model.def                   JSON: the parameters that are no functions, `class_name`, and under `fitted` what the
                                variables do not tell (labels, names of the features, shape of the target)
    checkpoint                  the state file; its paths are relative, so the folder may be moved
    model-<global_step>.index, .data-00000-of-00001

Order on disk: the new checkpoint, model.def, the state file that names the checkpoint, and only then are old
checkpoints removed. skflow's `endpoints`, `graph.pbtxt` and `saver.pbtxt` held the graph, which the class rebuilds
here. A folder that skflow itself saved, without `fitted`, is restored as far as its checkpoint can be read.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from .. import formats
from ..errors import CkptSurgeonError, NotFoundError, files
from ..formats import state
from ..publish import write_file
from . import architecture
from .architecture import CLASSIFIER, Values
from .validation import EstimatorError

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from .estimators import TensorFlowEstimator

AnyEstimator = TypeVar("AnyEstimator", bound="TensorFlowEstimator")

# Parameters of skflow of 2016 that never changed what a model computes; a model.def may hold them.
_OBSOLETE = {"config_addon", "early_stopping_rounds", "keep_checkpoint_every_n_hours", "tf_master"}
_DEFINITION = "model.def"
_LARGEST_DEFINITION = 1 << 26  # bytes; far above any list of labels


def save(estimator: TensorFlowEstimator, folder: str) -> None:
    """Save a fitted estimator into a folder, which is made if need be.

    Raises:
        CkptSurgeonError: the folder cannot be written.
    """
    folder = os.fspath(folder)
    values = estimator._net.values()
    try:
        definition = json.dumps(_definition(estimator), sort_keys=True).encode()
    except TypeError as error:
        raise EstimatorError(f"a parameter or label cannot be written as JSON: {error}", path=folder) from error
    prefix = os.path.join(folder, f"model-{int(values['global_step'])}")
    with files(folder):
        os.makedirs(folder, exist_ok=True)
    before = state.read(folder)
    formats.write(prefix, values)
    write_file(os.path.join(folder, _DEFINITION), definition)
    keep = [path for path in (before.all if before else []) if not _same(path, prefix)] + [prefix]
    limit = estimator.max_to_keep or 0
    if not limit:  # as TensorFlow's Saver: nothing is deleted, the latest alone is listed
        state.write(folder, prefix, [prefix])
        return
    state.write(folder, prefix, keep[-limit:])
    for old in keep[:-limit]:
        # A state file may name anything: only what `save` itself may have written here is removed.
        if re.fullmatch(r"model-[0-9]+", os.path.basename(old)) and _same(os.path.dirname(old), folder):
            formats.remove(old)


def restore(cls: type[AnyEstimator], folder: str, params: dict[str, Any]) -> AnyEstimator:
    """Give back the estimator that was saved into a folder.

    Args:
        cls: the class that the model must be of.
        folder: the folder.
        params: parameters that take the place of the saved ones.

    Raises:
        EstimatorError: there is no model in the folder, it is damaged, or of another class.
    """
    folder = os.fspath(folder)
    definition = _read_definition(folder)
    saved_class = definition.pop("class_name", None)
    known = {each.__name__: each for each in _family(cls)}
    kind = known.get(str(saved_class))
    if kind is None:
        expected = " or ".join(known)
        raise EstimatorError("holds a model of another class", path=folder, expected=expected, found=repr(saved_class))
    fitted = definition.pop("fitted", {})
    estimator = _construct(kind, folder, {**definition, **params})
    try:
        with formats.open(_latest(folder)) as checkpoint:
            _load(estimator, checkpoint, fitted if isinstance(fitted, dict) else {})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, EstimatorError):
            raise
        raise EstimatorError(f"{_DEFINITION} is damaged: {error}", path=folder) from error
    except CkptSurgeonError as error:
        raise EstimatorError(
            error.what, path=error.path, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    return estimator


def _family(cls: type[AnyEstimator]) -> list[type[AnyEstimator]]:
    """List a class after all that derive from it, so that its own name means itself."""
    return [each for child in cls.__subclasses__() for each in _family(child)] + [cls]


def _definition(estimator: TensorFlowEstimator) -> dict[str, Any]:
    params = {name: value for name, value in estimator.get_params().items() if not callable(value)}
    fitted: dict[str, Any] = {"features": estimator.n_features_in_, "target": estimator._target}
    if estimator._classifies:
        fitted["classes"] = estimator.classes_
    if hasattr(estimator, "feature_names_in_"):
        fitted["feature_names"] = estimator.feature_names_in_
    definition = {name: value for name, value in params.items() if value is not None}
    definition |= {"class_name": type(estimator).__name__, "fitted": fitted}
    return cast("dict[str, Any]", _plain(definition))


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
            raise ValueError("it is too large")
        definition = json.loads(text)
    except NotFoundError:
        hint = "a folder that an estimator was saved into has one"
        raise EstimatorError(f"there is no {_DEFINITION}", path=folder, hint=hint) from None
    except CkptSurgeonError as error:
        raise EstimatorError(error.what, path=error.path) from error
    except (ValueError, RecursionError) as error:
        raise EstimatorError(f"is not JSON: {error}", path=path) from error
    if not isinstance(definition, dict):
        raise EstimatorError("is no JSON object", path=path, found=type(definition).__name__)
    return definition


def _construct(kind: type[AnyEstimator], folder: str, params: dict[str, Any]) -> AnyEstimator:
    params = {name: value for name, value in params.items() if name not in _OBSOLETE}
    known = inspect.signature(kind).parameters
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise EstimatorError(f"{kind.__name__} has no parameter {', '.join(unknown)}", path=folder)
    missing = [name for name, each in known.items() if each.default is each.empty and name not in params]
    if missing:
        hint = f"restore(folder, {missing[0]}=...) gives it"
        raise EstimatorError(f"the parameter {', '.join(missing)} is not saved", path=folder, hint=hint)
    estimator = kind(**params)
    estimator._check_params()
    return estimator


def _latest(folder: str) -> str:
    """Name the checkpoint that the state file calls the latest."""
    found = state.read(folder)
    if found is None:
        hint = "a folder that an estimator was saved into has one"
        raise EstimatorError("there is no checkpoint state file", path=folder, hint=hint)
    return found.latest


def _load(estimator: TensorFlowEstimator, checkpoint: Checkpoint, fitted: dict[str, Any]) -> None:
    """Build the network, check the checkpoint's variables against it, and only then take memory for values."""
    if not fitted:
        net = architecture.of(checkpoint.variables)
        target = (net.outputs,) if net.head == CLASSIFIER or net.outputs > 1 else ()
        fitted = {"features": net.features, "target": target, "classes": range(net.outputs)}
    estimator.n_features_in_ = int(fitted["features"])
    if "feature_names" in fitted:
        estimator.feature_names_in_ = np.array(fitted["feature_names"], dtype=object)
    if estimator._classifies:
        estimator.classes_ = np.array(list(fitted["classes"]))
        if estimator.classes_.shape != (estimator.n_classes,):
            raise ValueError(f"{estimator.n_classes} classes, but {len(estimator.classes_)} labels")
    estimator._build(estimator.n_features_in_, tuple(int(size) for size in fitted["target"]))
    values = _matching(estimator, checkpoint)
    estimator._net.initialize()
    estimator._net.write(values)


def _matching(estimator: TensorFlowEstimator, checkpoint: Checkpoint) -> Values:
    """Read what the network needs; a slot may be missing and begins anew, everything else must be there and fit."""
    net = estimator._net
    values: Values = {}
    missing = []
    for name, variable in net.variables.items():
        if name not in checkpoint:
            missing.append(name)
            continue
        stored = checkpoint[name]
        expected = f"{variable.dtype.base_dtype.name} {list(variable.shape)}"
        if f"{stored.dtype} {list(stored.shape)}" != expected:
            found = f"{stored.dtype} {list(stored.shape)}"
            raise EstimatorError(f"{name} does not fit the model", path=checkpoint.path, expected=expected, found=found)
        values[name] = checkpoint.read(name)
    needed = [name for name in missing if name in net.trainable or name in ("global_step", "learning_rate")]
    if needed:
        raise EstimatorError(f"variables are missing: {', '.join(needed)}", path=checkpoint.path)
    if missing:
        warnings.warn(f"{checkpoint.path}: begin anew, as they are missing: {', '.join(missing)}", stacklevel=5)
    unused = [name for name in checkpoint if name not in net.variables]
    if unused:
        warnings.warn(f"{checkpoint.path}: not used by the model: {', '.join(unused)}", stacklevel=5)
    return values


def _same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)
