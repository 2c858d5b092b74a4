"""The names of skflow's variables: `skflow` makes them, and `ring` evaluates networks that have them.

    dnn/layer{K}/Linear/Matrix [in, units_K]       logistic_regression/weights [last, classes]   (a classifier's head)
    dnn/layer{K}/Linear/Bias   [units_K]           logistic_regression/bias    [classes]
    dnn/layer{K}/prob          []  (dropout)       linear_regression/weights   [last, outputs]   (a regressor's head)
    global_step                []  int32           linear_regression/bias      [outputs]
    learning_rate              []

Each weight or bias has the optimizer's slots: `…/Adagrad`, `…/Momentum`, or `…/Adam` and `…/Adam_1`; Adam adds
`beta1_power` and `beta2_power`. All but `global_step` are float32. The names come from skflow of 2016 and TensorFlow's
TF1 optimizers.
"""

from __future__ import annotations

import re

# Scopes and the names inside them, as the functions that build graphs need them.
LAYERS_SCOPE = "dnn"
LINEAR_SCOPE = "Linear"
MATRIX = "Matrix"
BIAS = "Bias"
KEEP_PROB = "prob"
CLASSIFIER = "logistic_regression"
REGRESSOR = "linear_regression"
HEAD_WEIGHTS = "weights"
HEAD_BIAS = "bias"

GLOBAL_STEP = "global_step"
LEARNING_RATE = "learning_rate"

# Optimizer -> suffix and initial value of each slot; then the optimizer's own variables. Adagrad's accumulator starts
# at 0.1 and Adam decays by 0.9 and 0.999: the defaults of tf.compat.v1.train.
SLOTS: dict[str, dict[str, float]] = {
    "SGD": {},
    "Adagrad": {"/Adagrad": 0.1},
    "Adam": {"/Adam": 0.0, "/Adam_1": 0.0},
    "Momentum": {"/Momentum": 0.0},
}
OPTIMIZER_VARIABLES: dict[str, dict[str, float]] = {
    "SGD": {},
    "Adagrad": {},
    "Adam": {"beta1_power": 0.9, "beta2_power": 0.999},
    "Momentum": {},
}

_MATRIX = re.compile(rf"{LAYERS_SCOPE}/layer(0|[1-9][0-9]{{0,5}})/{LINEAR_SCOPE}/{MATRIX}")


def layer_scope(layer: int) -> str:
    """Return the scope of hidden layer `layer` inside LAYERS_SCOPE."""
    return f"layer{layer}"


def matrix(layer: int) -> str:
    """Return the name of the weights of hidden layer `layer`."""
    return f"{LAYERS_SCOPE}/{layer_scope(layer)}/{LINEAR_SCOPE}/{MATRIX}"


def bias(layer: int) -> str:
    """Return the name of the biases of hidden layer `layer`."""
    return f"{LAYERS_SCOPE}/{layer_scope(layer)}/{LINEAR_SCOPE}/{BIAS}"


def keep_prob(layer: int) -> str:
    """Return the name of hidden layer `layer`'s keep probability, a variable that only models with dropout have."""
    return f"{LAYERS_SCOPE}/{layer_scope(layer)}/{KEEP_PROB}"


def head_weights(head: str) -> str:
    """Return the name of the weights of a head, CLASSIFIER or REGRESSOR."""
    return f"{head}/{HEAD_WEIGHTS}"


def head_bias(head: str) -> str:
    """Return the name of the biases of a head, CLASSIFIER or REGRESSOR."""
    return f"{head}/{HEAD_BIAS}"


def is_matrix(name: str) -> bool:
    """Tell whether a name is that of a hidden layer's weights."""
    return _MATRIX.fullmatch(name) is not None
