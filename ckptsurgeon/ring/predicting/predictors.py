"""The trainers that predict: those of models with a `trainer`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ... import data
from ..folder import Folder, logging_to
from ..schedule import step_seed
from ..spec.records import Spec
from ..trainers import engines
from ..trainers.stopping import stop
from ..trainers.trainer import Trainer

_GRACE = 2.0  # seconds between asking a process to end, and killing it


@dataclass(frozen=True)
class Predictor:
    """A trainer that predicts.

    Attributes:
        trainer: takes requests whose operation is 'predict'.
        seed: of the initial weights of the model, with which the trainer builds it.
    """

    trainer: Trainer
    seed: int


Predictors = Mapping[str, Predictor]  # by the names of their models


def predictors(spec: Spec, trainers: Mapping[str, Trainer]) -> Predictors:
    """Return those of the given trainers that predict: the trainers of models with a `trainer`."""
    return {
        model.name: Predictor(trainers[model.name], step_seed(spec.seed, model.name, 0))
        for model in spec.models
        if model.trainer is not None and model.name in trainers
    }


@contextlib.contextmanager
def started(spec: Spec, folder: Folder, table: data.Table) -> Iterator[Predictors]:
    """Start what predicts outside a run, for the duration of the context.

    Args:
        spec: the models.
        folder: the run.
        table: its rows.
    """
    with tempfile.TemporaryDirectory(prefix="ckptsurgeon-") as scratch:
        trainers = engines.trainers(spec, logging_to(folder, scratch), table, ())
        first: dict[str | None, Trainer] = {}  # models of one `trainer` share a process, which is slow to start
        found = predictors(spec, {m.name: first.setdefault(m.trainer, trainers[m.name]) for m in spec.models})
        try:
            yield found
        finally:
            stop([each.trainer for each in found.values()], 0.0, _GRACE)
