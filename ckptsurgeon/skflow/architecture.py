"""The network that a checkpoint's variables describe, inferred from their names and shapes; NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError, UsageError
from .variable_names import (
    CLASSIFIER,
    GLOBAL_STEP,
    LEARNING_RATE,
    OPTIMIZER_VARIABLES,
    REGRESSOR,
    SLOTS,
    bias,
    head_bias,
    head_weights,
    is_matrix,
    matrix,
)

Values = dict[str, NDArray[Any]]


class Described(Protocol):
    """A variable as far as it matters here: a checkpoint's `Variable` is one."""

    @property
    def dtype(self) -> Any:
        """NumPy's name of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


def unit_limit(shape: Sequence[int]) -> float:
    """Return sqrt(3 / fan_in), the bound of uniform unit scaling, for weights of this shape [fan_in, fan_out]."""
    return math.sqrt(3.0 / max(1, shape[0]))


@dataclass(frozen=True)
class Architecture:
    """A network and its optimizer.

    Attributes:
        features: columns of X, 1 or more.
        hidden_units: the width of each hidden layer; may be empty.
        head: CLASSIFIER or REGRESSOR.
        outputs: classes, or values predicted for a row.
        optimizer: a key of SLOTS.
    """

    features: int
    hidden_units: tuple[int, ...]
    head: str
    outputs: int
    optimizer: str

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what is trained, from the input to the head."""
        shapes: dict[str, tuple[int, ...]] = {}
        width = self.features
        for layer, units in enumerate(self.hidden_units):
            shapes[matrix(layer)], shapes[bias(layer)] = (width, units), (units,)
            width = units
        shapes[head_weights(self.head)] = (width, self.outputs)
        shapes[head_bias(self.head)] = (self.outputs,)
        return shapes

    @property
    def trained(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all float32 variables that a step changes: parameters, slots, the optimizer's own."""
        shapes = self.parameters
        slots = {name + slot: shape for name, shape in shapes.items() for slot in SLOTS[self.optimizer]}
        return shapes | slots | {name: () for name in OPTIMIZER_VARIABLES[self.optimizer]}

    def initial(self, seed: int, learning_rate: float) -> Values:
        """Return the variables of a network that has not been trained yet, a pure function of the arguments.

        Weights are uniform in ±sqrt(3 / fan_in), TensorFlow 0.7's default; biases are 0.

        Args:
            seed: any integer from 0.
            learning_rate: the value of the variable of that name.
        """
        random = np.random.Generator(np.random.PCG64(seed))
        values: Values = {GLOBAL_STEP: np.zeros((), np.int32)}
        for name, shape in self.parameters.items():
            if len(shape) == 2:
                uniform = (2.0 * random.random(shape) - 1.0) * unit_limit(shape)
                values[name] = uniform.astype(np.float32)
            else:
                values[name] = np.zeros(shape, np.float32)
        values[LEARNING_RATE] = np.array(learning_rate, np.float32)
        for name, shape in self.parameters.items():
            for slot, value in SLOTS[self.optimizer].items():
                values[name + slot] = np.full(shape, value, np.float32)
        for name, value in OPTIMIZER_VARIABLES[self.optimizer].items():
            values[name] = np.array(value, np.float32)
        return values


def of(variables: Mapping[str, Described], optimizer: str | None = None) -> Architecture:
    """Read the architecture off a checkpoint's variables; those that belong to no network are ignored.

    Args:
        variables: name -> something with dtype and shape.
        optimizer: a key of SLOTS; None takes the one whose slots are there, SGD if there are none.

    Raises:
        RefusedError: there is no such network in it, or a variable of it is missing or has another shape or dtype.
        UsageError: the slots of the optimizer that was asked for are missing.
    """
    hidden = sum(1 for name in variables if is_matrix(name))
    heads = [head for head in (CLASSIFIER, REGRESSOR) if head_weights(head) in variables]
    if len(heads) != 1:
        raise RefusedError(
            "holds no network of skflow",
            expected=f"either {head_weights(CLASSIFIER)} or {head_weights(REGRESSOR)}",
            found="both" if heads else "neither",
        )
    names = [matrix(layer) for layer in range(hidden)] + [head_weights(heads[0])]
    shapes = [_shape_2d(variables, name) for name in names]
    widths = [shape[1] for shape in shapes]
    present = optimizer or _optimizer(variables, names)
    architecture = Architecture(shapes[0][0], tuple(widths[:-1]), heads[0], widths[-1], present)
    parameters = architecture.parameters
    for name, shape in architecture.trained.items():
        if name not in variables and name not in parameters:
            raise UsageError(
                f"{present} needs the variable {name}, which is missing",
                hint=f"train with {_optimizer(variables, names)}, or start from a checkpoint that {present} has saved",
            )
        _check(variables, name, shape)
    for name in (LEARNING_RATE, GLOBAL_STEP):
        if name in variables:
            _check(variables, name, (), ("float32",) if name == LEARNING_RATE else ("int32", "int64"))
    return architecture


def _optimizer(variables: Mapping[str, Described], names: Sequence[str]) -> str:
    """Return the optimizer whose slots stand beside the first of the weights; SGD, which has none, fits always."""
    return next(
        name
        for name in ("Adam", "Adagrad", "Momentum", "SGD")
        if all(names[0] + slot in variables for slot in SLOTS[name])
    )


def _shape_2d(variables: Mapping[str, Described], name: str) -> tuple[int, ...]:
    if name not in variables:
        raise RefusedError(f"there is no variable {name}", expected="hidden layers numbered from 0 without a gap")
    shape = variables[name].shape
    if len(shape) != 2 or 0 in shape:
        raise RefusedError(f"{name} is no matrix of weights", expected="[in, out]", found=_text(shape))
    return shape


def _check(
    variables: Mapping[str, Described], name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = ("float32",)
) -> None:
    if name not in variables:
        raise RefusedError(f"there is no variable {name}", expected=f"{dtypes[0]} {_text(shape)}")
    found = variables[name]
    if tuple(found.shape) != shape or str(found.dtype) not in dtypes:
        expected = f"{' or '.join(dtypes)} {_text(shape)}"
        raise RefusedError(
            f"{name} does not fit the network", expected=expected, found=f"{found.dtype} {_text(found.shape)}"
        )


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
