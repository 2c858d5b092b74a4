"""How to start the built-in trainer. It is a worker like any other, which the ring never imports."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from ...data import Table
from ..spec.records import Model

PYTHON = (sys.executable, "-m")  # runs a module of this package


def arguments(model: Model, table: Table) -> list[str]:
    """Return the program and its arguments for a model with `hidden_units`."""
    assert model.hidden_units is not None
    outputs = 1 if table.y.ndim == 1 else table.y.shape[1]
    options = {
        "--hidden-units": ",".join(map(str, model.hidden_units)),
        "--features": math.prod(table.X.shape[1:]),
        **({"--outputs": outputs} if table.classes is None else {"--classes": len(table.classes)}),
        "--optimizer": model.optimizer,
        "--learning-rate": model.learning_rate,
    }
    return [*PYTHON, "ckptsurgeon.skflow.worker"] + [str(part) for pair in options.items() for part in pair]


def environment() -> dict[str, str]:
    """Return the variables that let it import this very package, installed or not, from any working directory."""
    here = str(Path(__file__).absolute().parents[3])
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": here if not before else here + os.pathsep + before}
