"""Predicts with all trained models together, and scores each of them and the ensemble."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import data
from ...errors import CkptSurgeonError, UnsupportedError, UsageError, shape_text
from .. import journal
from ..folder import Folder, existing
from ..rows import held_out
from ..spec import fixed, loading
from ..spec.records import Spec
from . import features
from .predictors import Predictors, started
from .scores import Score
from .scores import differing as differing_rows
from .skflow_net import Floats
from .voting import Task, Voter, despite_a_driver, rows_at_once, voter


@dataclass(frozen=True)
class EnsembleMember:
    """A model of the ensemble.

    Attributes:
        name: the name of the model.
        checkpoint: its latest checkpoint.
        vote: computes its outputs; None if it has no vote.
        reason: why it has no vote.
    """

    name: str
    checkpoint: str
    vote: Voter | None
    reason: str | None


def evaluate(path: str, file: str | None = None, target: str | None = None) -> list[dict[str, Any]]:
    """Score each model of a run, and all of them together.

    Args:
        path: the folder of the run.
        file: rows with the target; None for the rows that the run has held out.
        target: the column of the file to compare with; None for that of ring.toml, which need not have [data].

    Returns:
        For each model, and last for 'ensemble': `model`, `checkpoint`, `rows`, and `accuracy`, `nll` and `ece` of a
        classifier or `r2` and `mse` of a regressor (see `scores`); `reason` says why a model has no vote, and is None
        of all others. The ensemble also has `best`, the best member, and if it is a classifier `disagreement`, the
        share of the rows on which not all members name the same class.

    Raises:
        UsageError: there are no rows to score on.
        TrainerError: a model's `predict` program failed.
        CkptSurgeonError: the run or the rows cannot be read, or no model has a vote.
    """
    folder, spec = _open(path)
    trained, parts = _rows(folder, spec, file, target)
    classifier = trained.classes is not None
    with _members(folder, spec, trained) as members:
        scores, together, count, differing = [Score(classifier) for _ in members], Score(classifier), 0, 0
        for part in parts:
            votes = []
            for member, score in zip(members, scores, strict=True):
                if member.vote is not None:
                    votes.append(member.vote.outputs(part.X))
                    score.add(votes[-1], part)
            together.add(np.mean(votes, axis=0), part)
            differing += differing_rows(votes) if classifier else 0
            count += len(part.X)
        lines: list[dict[str, Any]] = [
            {"model": member.name, "checkpoint": member.checkpoint, "rows": count}
            | score.values()
            | {"reason": member.reason}
            for member, score in zip(members, scores, strict=True)
        ]
        best = max((s.rank, -n) for n, (m, s) in enumerate(zip(members, scores, strict=True)) if m.vote is not None)
    ensemble = {"model": "ensemble", "checkpoint": None, "rows": count} | together.values()
    disagreement = {"disagreement": differing / count if count else None} if classifier else {}
    return [*lines, {**ensemble, "reason": None, "best": members[-best[1]].name, **disagreement}]


def predict(path: str, file: str, warn: Callable[[str], None] = lambda line: None) -> Iterator[list[list[Any]]]:
    """Predict by the mean of the models' probabilities, or of their values.

    Args:
        path: the folder of the run.
        file: csv, with or without the target column, .npz with `X`, or .npy.
        warn: is called with lines for the user: a model without a vote, columns that are not used.

    Yields:
        First the header alone, then rows, many at a time: of a classifier the `prediction` and the probability of
        each class; of a regressor the `prediction`, or `prediction_0`, … where it has several outputs.

    Raises:
        TrainerError: a model's `predict` program failed.
        CkptSurgeonError: the run or the rows cannot be read, or no model has a vote.
    """
    folder, spec = _open(path)
    if spec.data is None:
        raise UsageError("has no [data], which predict needs", path=folder.spec)
    table = folder.open_table()
    task, classes = Task.of(table), table.classes
    with _members(folder, spec, table) as members:
        for member in members:
            if member.reason is not None:
                warn(f"model {member.name}: {member.reason}")
        header = ["prediction"] if task.outputs == 1 else [f"prediction_{k}" for k in range(task.outputs)]
        yield [["prediction", *classes] if classes is not None else header]
        votes = [member.vote for member in members if member.vote is not None]
        for X in features.read(file, task.shape, table.features, spec.data.target, rows_at_once(spec), warn):
            mean: Floats = np.mean([vote.outputs(X) for vote in votes], axis=0)
            if classes is None:
                yield mean.tolist()
            else:
                best = [classes[k] for k in mean.argmax(axis=1).tolist()]
                yield [[name, *chances] for name, chances in zip(best, mean.tolist(), strict=True)]


def _open(path: str) -> tuple[Folder, Spec]:
    """Return a run and its settings."""
    folder = existing(path)
    spec = loading.load(folder.spec)
    fixed.check_spec(folder, spec, journal.load(folder.journal).history)
    return folder.storing(spec.suffixes), spec


@contextlib.contextmanager
def _members(folder: Folder, spec: Spec, table: data.Table) -> Iterator[Sequence[EnsembleMember]]:
    """Open the latest checkpoints of all models, and try again if a running driver removes one."""
    with started(spec, folder, table) as asked, contextlib.ExitStack() as stack:
        task = Task.of(table)
        members = despite_a_driver(lambda: _ready(folder, spec, task, asked, stack))
        if all(member.vote is None for member in members):
            raise CkptSurgeonError("no model has a vote", path=folder.root, hint=members[0].reason)
        yield members


def _ready(
    folder: Folder, spec: Spec, task: Task, asked: Predictors, stack: contextlib.ExitStack
) -> list[EnsembleMember]:
    history = journal.load(folder.journal).history
    models, members = {model.name: model for model in spec.models}, []
    for name in history.models:
        path = folder.checkpoint(name, history.latest(name))
        try:
            vote = stack.enter_context(voter(models[name], folder, path, task, asked.get(name), pin=True))
            members.append(EnsembleMember(name, path, vote, None))
        except UnsupportedError as error:
            members.append(EnsembleMember(name, path, None, f"no vote: {error.what}"))
    return members


def _rows(folder: Folder, spec: Spec, file: str | None, target: str | None) -> tuple[data.Table, Iterator[data.Table]]:
    """Return a table with the run's classes and features, and the rows to score on, in parts."""
    size = rows_at_once(spec)
    trained = None if spec.data is None else folder.open_table()
    if file is None:
        if spec.data is None or trained is None:
            raise UsageError("has no [data]", path=folder.spec, hint="name the rows with --data and --target")
        if not spec.data.holds_out:
            raise UsageError("no rows are held out", path=folder.spec, hint="name a file with --data")
        return trained, held_out(spec, trained, size)
    table = data.read(file, target or (spec.data.target if spec.data is not None else None), like=trained)
    slices = [slice(start, start + size) for start in range(0, len(table.X), size)]
    if trained is None:
        return table, map(table.take, slices)
    what = "does not have the columns that the models were trained on"
    if table.X.shape[1:] != trained.X.shape[1:]:
        expected, found = (shape_text("rows", *each.X.shape[1:]) for each in (trained, table))
        raise UsageError(what, path=file, expected=expected, found=found)
    if table.features == trained.features or not (table.features and trained.features):
        return trained, map(table.take, slices)
    if sorted(table.features) != sorted(trained.features):
        raise UsageError(what, path=file, expected=_list(trained.features), found=_list(table.features))
    order = [table.features.index(name) for name in trained.features]
    return trained, (data.Table(table.X[some][:, order], table.y[some], table.classes) for some in slices)


def _list(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:200] + "…"
