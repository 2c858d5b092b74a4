"""How to start the built-in trainers. They are workers like any other, which the ring never imports."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ...data import Table
from .. import learning_rate
from ..folder import Folder
from ..schedule import step_seed
from ..spec.records import Model, Spec

PYTHON = (sys.executable, "-m")  # runs a module of this package


def arguments(model: Model, table: Table) -> list[str]:
    """Return the program and its arguments for a model with `hidden_units`."""
    assert model.hidden_units is not None
    options = {
        "--hidden-units": ",".join(map(str, model.hidden_units)),
        "--features": math.prod(table.X.shape[1:]),
        **_outputs(table),
        "--optimizer": model.optimizer,
        "--learning-rate": None if model.learning_rate is None else learning_rate.at(model.learning_rate, 1),
    }
    return _program("ckptsurgeon.skflow.worker", options)


def function_arguments(spec: Spec, model: Model, folder: Folder, table: Table) -> list[str]:
    """Return the program and its arguments for a model with a `trainer`."""
    assert model.trainer is not None
    options = {
        "--input-shape": ",".join(map(str, table.X.shape[1:])),
        **_outputs(table),
        "--seed": step_seed(spec.seed, model.name, 0),
    }
    return _program("ckptsurgeon.frameworks.worker", options, folder.function(model.trainer))


def _outputs(table: Table) -> dict[str, object]:
    return {"--outputs" if table.classes is None else "--classes": table.outputs}


def _program(module: str, options: Mapping[str, object], *arguments: str) -> list[str]:
    return [*PYTHON, module, *arguments, *(str(part) for pair in options.items() for part in pair)]


def environment() -> dict[str, str]:
    """Return the variables that let it import this very package, installed or not, from any working directory."""
    here = str(Path(__file__).absolute().parents[3])
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": here if not before else here + os.pathsep + before}
