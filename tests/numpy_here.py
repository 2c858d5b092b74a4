"""The NumPy trainer of the tests' rings, asked in this process: driver, files and trainer are real, the pipe is not.

It saves a second of start-ups each time that a ring is driven on; for tests of what the driver keeps and goes on from,
not of processes. It keeps nothing between two requests, so that a new one is like one that was started anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ring_support import PROGRAM

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


class Here:
    """A trainer that works while it is asked.

    Args:
        arguments: of the program, as the ring starts it.
    """

    pid = None
    stays_running = True

    def __init__(self, arguments: list[str]) -> None:
        assert arguments[: len(PROGRAM)] == PROGRAM
        self._options = TRAINER.parse(arguments[len(PROGRAM) :])
        self._answer: dict[str, Any] = {}

    def open(self) -> None:
        """Get ready."""

    def start(self, request: Any) -> None:
        """Do what is asked."""
        self._answer = json.loads(TRAINER.answer(self._options, asdict(request)))

    def finish(self) -> dict[str, Any]:
        """Return the metrics."""
        metrics: dict[str, Any] = self._answer["metrics"]
        return metrics

    def last_words(self) -> str:
        """It says nothing."""
        return ""

    def reset(self) -> None:
        """Nothing runs."""

    def end_input(self) -> None:
        """It waits for nothing."""

    def ended(self) -> bool:
        """Nothing runs."""
        return True

    def terminate(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rings of a test have such trainers in place of workers."""

    def trainers(spec: Any, folder: Any, table: Any, inherited: Any) -> dict[str, Here]:
        return {model.name: Here(list(model.worker)) for model in spec.models}

    monkeypatch.setitem(engines._ENGINES, "local", trainers)  # type: ignore[arg-type]
