"""The network that a checkpoint's variables describe, inferred from their names and shapes; NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import RefusedError, UsageError, shape_text
from ...schemes.skflow_names import (
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
    """The parts of a variable used here; a checkpoint's `Variable` has them."""

    @property
    def dtype(self) -> Any:
        """NumPy's name of the dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""


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
        outputs: number of classes, or of values predicted per row.
        optimizer: a key of SLOTS.
    """

    features: int
    hidden_units: tuple[int, ...]
    head: str
    outputs: int
    optimizer: str

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the trained parameters, from the input to the head."""
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
        """Names and shapes of the float32 variables that a step changes: parameters, slots, optimizer's variables."""
        shapes = self.parameters
        slots = {name + slot: shape for name, shape in shapes.items() for slot in SLOTS[self.optimizer]}
        return shapes | slots | {name: () for name in OPTIMIZER_VARIABLES[self.optimizer]}

    def initial(self, seed: int, learning_rate: float) -> Values:
        """Return the variables of an untrained network; a pure function of the arguments.

        Weights are uniform in ±sqrt(3 / fan_in), TensorFlow 0.7's default; biases are 0.

        Args:
            seed: any non-negative integer.
            learning_rate: the value of the variable `learning_rate`.
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
    """Infer the architecture from a checkpoint's variables; variables outside the network are ignored.

    Args:
        variables: name -> its dtype and shape.
        optimizer: a key of SLOTS; None for the one whose slots are present, or SGD.

    Raises:
        RefusedError: the variables are not a skflow network, or one is missing or has the wrong shape or dtype.
        UsageError: the slots of the requested optimizer are missing.
    """
    hidden = sum(1 for name in variables if is_matrix(name))
    heads = [head for head in (CLASSIFIER, REGRESSOR) if head_weights(head) in variables]
    if len(heads) != 1:
        raise RefusedError(
            "does not contain a skflow network",
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
                hint=f"train with {_optimizer(variables, names)}, or start from a checkpoint saved with {present}",
            )
        _check(variables, name, shape)
    for name in (LEARNING_RATE, GLOBAL_STEP):
        if name in variables:
            _check(variables, name, (), ("float32",) if name == LEARNING_RATE else ("int32", "int64"))
    return architecture


def _optimizer(variables: Mapping[str, Described], names: Sequence[str]) -> str:
    """Return the optimizer whose slots the first weights have; SGD, which needs none, always matches."""
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
        raise RefusedError(f"{name} is not a weight matrix", expected="[in, out]", found=shape_text(*shape))
    return shape


def _check(
    variables: Mapping[str, Described], name: str, shape: tuple[int, ...], dtypes: tuple[str, ...] = ("float32",)
) -> None:
    if name not in variables:
        raise RefusedError(f"there is no variable {name}", expected=f"{dtypes[0]} {shape_text(*shape)}")
    found = variables[name]
    if tuple(found.shape) != shape or str(found.dtype) not in dtypes:
        expected = f"{' or '.join(dtypes)} {shape_text(*shape)}"
        raise RefusedError(
            f"{name} does not match the network", expected=expected, found=f"{found.dtype} {shape_text(*found.shape)}"
        )
