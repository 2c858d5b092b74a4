"""The public names of skflow and the modules that define them; each module is imported when it is first needed."""

from __future__ import annotations

# Public name -> the module that defines it; None: the name is that of a module.
MODULES: dict[str, str | None] = {
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


def load(name: str) -> object:
    """Import the object behind a public name.

    Args:
        name: a key of MODULES.

    Raises:
        ImportError: TensorFlow or scikit-learn is not installed.
    """
    from importlib import import_module

    module_name = MODULES[name]
    try:
        module = import_module(f"{__package__}.{module_name or name}")
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "sklearn"):
            raise
        raise ImportError(f"skflow needs {error.name}: pip install 'ckptsurgeon[train]'") from error
    return getattr(module, name) if module_name else module
