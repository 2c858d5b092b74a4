"""The built-in trainer of a ring, asked in this process: driver, checkpoints and trainer are real, the pipe is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from ckptsurgeon.ring.trainers import builtin, engines
from ckptsurgeon.skflow.trainer.arguments import parse_worker
from ckptsurgeon.skflow.worker import RequestHandler


class Here:
    """A trainer that works while it is asked. It saves the seconds in which a process imports TensorFlow.

    Args:
        arguments: of the built-in trainer, as the ring starts it.
    """

    pid = None
    stays_running = True

    def __init__(self, arguments: list[str]) -> None:
        self._worker = RequestHandler(*parse_worker(arguments[3:]))  # behind: python -m module
        self._answer: dict[str, Any] = {}

    def open(self) -> None:
        """Get ready."""

    def start(self, request: Any) -> None:
        """Do what is asked."""
        self._answer = self._worker.answer(json.dumps({"v": 1, **asdict(request)}).encode())

    def finish(self) -> dict[str, Any]:
        """Return the metrics."""
        assert "error" not in self._answer, self._answer
        metrics: dict[str, Any] = self._answer["metrics"]
        return metrics

    def last_words(self) -> str:
        """It says nothing."""
        return ""

    def end_input(self) -> None:
        """Nothing runs."""

    terminate = kill = end_input

    def ended(self) -> bool:
        """Nothing runs."""
        return True


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rings of a test have such trainers."""

    def trainers(spec: Any, folder: Any, table: Any, inherited: Any) -> dict[str, Here]:
        return {model.name: Here(builtin.arguments(model, table)) for model in spec.models}

    monkeypatch.setattr(engines, "trainers", trainers)
