"""Turns what a user's function returns into a `Net`: the one place that knows which frameworks there are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from ..errors import RefusedError
from . import function
from .net import Net, Problem

# The frameworks, and the modules that know them. These are imported only after the user's file has imported the
# framework, so that a worker starts no other one.
_FRAMEWORKS = {"keras": "keras_net", "torch": "torch_net"}


class _Framework(Protocol):
    """What a framework's module offers."""

    def seed(self, seed: int) -> None:
        """Make what is built from now on depend on the seed alone."""

    def wrap(self, made: object, problem: Problem) -> Net | None:
        """Return a model of this framework as a `Net`; None for anything else."""


def build(make: Callable[..., Any], problem: Problem, seed: int) -> Net:
    """Call a user's function and return its model, ready to be trained.

    Args:
        make: takes `(input_shape, classes, seed)` and returns a compiled Keras model, or a PyTorch module as
            `torch_net` says.
        problem: what the model is to learn.
        seed: of its initial weights.

    Raises:
        RefusedError: the function fails, or what it returns cannot be trained.
    """
    seeded = _seed(seed)
    made = function.build(make, problem.input_shape, problem.classes, seed)
    frameworks = _seed(seed)
    if len(frameworks) > len(seeded):  # the function has imported a framework, which was not seeded before
        made = function.build(make, problem.input_shape, problem.classes, seed)
    for framework in frameworks:
        net = framework.wrap(made, problem)
        if net is not None:
            return net
    raise RefusedError(
        "the trainer's function does not return a model",
        expected="a compiled keras.Model or a torch.nn.Module",
        found=f"{type(made).__module__}.{type(made).__qualname__}",
    )


def _seed(seed: int) -> list[_Framework]:
    """Seed the frameworks that have been imported, and return them."""
    names = [module for name, module in _FRAMEWORKS.items() if name in sys.modules]
    found = [cast("_Framework", importlib.import_module(f"{__package__}.{name}")) for name in names]
    for framework in found:
        framework.seed(seed)
    return found
