"""skflow of 2016 on TensorFlow 2: the names that its users import.

    from ckptsurgeon import skflow

    classifier = skflow.TensorFlowDNNClassifier(hidden_units=[10, 20, 10], n_classes=3)

The names are handed on lazily: the worker, which lives in this folder too, must answer a wrong argument before
TensorFlow is loaded, and that takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import models, monitors, ops
    from .dnn import TensorFlowDNNClassifier, TensorFlowDNNRegressor
    from .errors import EstimatorError
    from .estimators import TensorFlowEstimator
    from .linear import (
        TensorFlowClassifier,
        TensorFlowLinearClassifier,
        TensorFlowLinearRegressor,
        TensorFlowRegressor,
    )
    from .shared_trunk import SharedTrunkEnsemble

# Public name -> the module that it is had from; None: it is that module.
_HOMES = {
    "EstimatorError": "errors",
    "SharedTrunkEnsemble": "shared_trunk",
    "TensorFlowClassifier": "linear",
    "TensorFlowDNNClassifier": "dnn",
    "TensorFlowDNNRegressor": "dnn",
    "TensorFlowEstimator": "estimators",
    "TensorFlowLinearClassifier": "linear",
    "TensorFlowLinearRegressor": "linear",
    "TensorFlowRegressor": "linear",
    "models": None,
    "monitors": None,
    "ops": None,
}

__all__ = [
    "EstimatorError",
    "SharedTrunkEnsemble",
    "TensorFlowClassifier",
    "TensorFlowDNNClassifier",
    "TensorFlowDNNRegressor",
    "TensorFlowEstimator",
    "TensorFlowLinearClassifier",
    "TensorFlowLinearRegressor",
    "TensorFlowRegressor",
    "models",
    "monitors",
    "ops",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = _HOMES[name]
    try:
        module = import_module(f"{__name__}.{home or name}")
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "sklearn"):
            raise
        raise ImportError(f"skflow needs {error.name}: pip install 'ckptsurgeon[train]'") from error
    return getattr(module, name) if home else module


def __dir__() -> list[str]:
    return sorted(__all__)
