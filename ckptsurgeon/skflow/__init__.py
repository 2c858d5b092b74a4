"""skflow of 2016 on TensorFlow 2: the names that its users import.

    from ckptsurgeon import skflow

    classifier = skflow.TensorFlowDNNClassifier(hidden_units=[10, 20, 10], n_classes=3)

Names are loaded lazily. Importing TensorFlow takes seconds, and the worker, which is also in this package, must reject
invalid arguments before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .public import MODULES as _MODULES
from .public import load as _load

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
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
