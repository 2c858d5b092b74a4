"""The NumPy trainer of the tests' rings, asked in this process: driver, files and trainer are real, the pipe is not.

It saves a second of start-ups each time that a ring is driven on; for tests of what the driver keeps and goes on from,
not of processes. It keeps nothing between two requests, so that a new one is like one that was started anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ring_support import PROGRAM
from trainer_here import TrainerHere

from ckptsurgeon.ring.trainers import engines


def _load() -> Any:
    """Return the program as a module, and leave sys.path and the environment as they are."""
    spec = importlib.util.spec_from_file_location(
        "numpy_trainer_of_the_tests", Path(__file__).with_name("numpy_trainer.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(os, "environ", {**os.environ})
        patch.delitem(sys.modules, "numpy_trainer", raising=False)
        spec.loader.exec_module(module)
    sys.modules.pop("numpy_trainer", None)
    return module


TRAINER = _load()


def here(arguments: list[str]) -> TrainerHere:
    """Return the program with these arguments, as the ring starts it."""
    assert arguments[: len(PROGRAM)] == PROGRAM
    options = TRAINER.parse(arguments[len(PROGRAM) :])
    return TrainerHere(lambda request: json.loads(TRAINER.answer(options, request)))


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rings of a test have such trainers in place of workers."""

    def trainers(spec: Any, folder: Any, table: Any, inherited: Any) -> dict[str, TrainerHere]:
        return {model.name: here(list(model.worker)) for model in spec.models}

    monkeypatch.setitem(engines._ENGINES, "local", trainers)  # type: ignore[arg-type]
