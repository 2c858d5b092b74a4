"""The trainer of `trainer = "file.py:function"`, asked in this process; and rings of such models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_here import TrainerHere

from ckptsurgeon import serving
from ckptsurgeon.frameworks.net import Problem
from ckptsurgeon.frameworks.worker import RequestHandler
from ckptsurgeon.ring.schedule import step_seed
from ckptsurgeon.ring.trainers import engines

IMAGES = Problem((8, 8, 1), 3, 3)


def images(rows: int = 24, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return random images of three classes."""
    random = np.random.default_rng(seed)
    return random.random((rows, 8, 8, 1), np.float32), random.integers(0, 3, rows)


class Here(TrainerHere):
    """The trainer of a function's models."""

    def __init__(self, place: str, problem: Problem, seed: int) -> None:
        worker = RequestHandler(place, problem, seed)
        super().__init__(lambda request: serving.answer(worker.do, json.dumps(request).encode()))

    def ask(
        self, op: str, output: Any, checkpoint: Any = None, rows: Any = None, seed: int = 5, **more: Any
    ) -> Mapping[str, Any]:
        """Send a request and return the reply."""
        paths = {"checkpoint": checkpoint, "output": output, "data": rows}
        texts = {key: None if value is None else str(value) for key, value in paths.items()}
        return self.answer({"v": 1, "op": op, "step": 1, "seed": seed, **texts, **more})


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rings of a test have such trainers."""

    def trainers(spec: Any, folder: Any, table: Any, inherited: Any) -> dict[str, Here]:
        problem = Problem(table.X.shape[1:], len(table.classes), len(table.classes))
        return {
            model.name: Here(folder.function(model.trainer), problem, step_seed(spec.seed, model.name, 0))
            for model in spec.models
        }

    monkeypatch.setattr(engines, "trainers", trainers)


def save_rows(path: Path, rows: int = 24) -> Path:
    """Write the .npz of a mini-batch."""
    X, y = images(rows)
    np.savez(path, X=X, y=y)
    return path


def bytes_of(checkpoint: Path) -> list[bytes]:
    """Return the content of a checkpoint's files."""
    names = [checkpoint] if checkpoint.exists() else sorted(checkpoint.parent.glob(checkpoint.name + ".[di]*"))
    assert names
    return [name.read_bytes() for name in names]
