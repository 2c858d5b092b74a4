"""The built-in trainer of a ring, asked in this process: driver, checkpoints and trainer are real, the pipe is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from trainer_here import TrainerHere

from ckptsurgeon.ring.trainers import builtin, engines
from ckptsurgeon.skflow.trainer.arguments import parse_worker
from ckptsurgeon.skflow.worker import RequestHandler


def here(arguments: list[str]) -> TrainerHere:
    """Return the built-in trainer with these arguments, as the ring starts it."""
    worker = RequestHandler(*parse_worker(arguments[3:]))  # behind: python -m module
    return TrainerHere(lambda request: worker.answer(json.dumps(request).encode()))


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rings of a test have such trainers."""

    def trainers(spec: Any, folder: Any, table: Any, inherited: Any) -> dict[str, TrainerHere]:
        return {model.name: here(builtin.arguments(model, table)) for model in spec.models}

    monkeypatch.setattr(engines, "trainers", trainers)
