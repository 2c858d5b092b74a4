"""What a run has done so far: records of finished steps and of edits, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice, takewhile
from typing import Any

from . import json_text
from .schedule import Schedule, Step


@dataclass(frozen=True)
class Measured:
    """What is measured at the end of a round that ends a block of `window` rounds; each by the name of a model.

    Attributes:
        change: how much the weights moved from the mean of one block to that of the next, and `TRUNK`'s; None
            where no whole block lies before.
        held_out: the loss on held-out rows; None for a model without a vote; None if no rows are held out.
        distance: how far the trunk, as the last train step left it, is from the mean of all models' trunks.
    """

    change: Mapping[str, float] | None = None
    held_out: Mapping[str, float | None] | None = None
    distance: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Record:
    """One finished step.

    Attributes:
        step: the step of the schedule.
        source: the checkpoint that it started from (train) or took layers from (graft), relative to the run's
            folder; all of those whose trunks it averaged.
        checkpoint: the one that it wrote, relative to the run's folder.
        sha256: the fingerprint of that.
        metrics: what the trainer measured; empty for other steps.
        measured: what was measured after this step.
        seconds: how long the step took.
    """

    step: Step
    source: str | Sequence[str]
    checkpoint: str
    sha256: str
    metrics: Mapping[str, Any]
    measured: Measured
    seconds: float

    @property
    def loss(self) -> float | None:
        """The loss among the metrics, if there is one."""
        return _number(self.metrics.get("loss"))

    def line(self) -> bytes:
        """Return the record as a line of the journal."""
        step = self.step
        values = {
            "step": step.number,
            "round": step.round,
            "kind": step.kind,
            "model": step.model,
            "from": self.source,
            "batch": step.batch,
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "metrics": self.metrics,
            "change": self.measured.change,
            "seconds": round(self.seconds, 6),
            "held_out": self.measured.held_out,
            "distance": self.measured.distance,
        }
        return json_text.render(values).encode() + b"\n"


@dataclass(frozen=True)
class Edit:
    """A checkpoint that somebody changed between two steps, and that the run continues from.

    Attributes:
        step: the last finished step.
        round: the number of whole rounds.
        model: whose checkpoint it is: its latest.
        checkpoint: the path, relative to the run's folder; it stays the same.
        sha256: the new fingerprint.
        replaces: the fingerprint before.
    """

    step: int
    round: int
    model: str
    checkpoint: str
    sha256: str
    replaces: str

    def line(self) -> bytes:
        """Return the edit as a line of the journal."""
        return json_text.render({"kind": "edit", **asdict(self)}).encode() + b"\n"


def replay(line: bytes, history: History) -> bool:
    """Take a line of the journal, but not the head, into a history; return whether it ends a round.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError: it is not such a line, or one that cannot
            follow `history`.
    """
    values = json_text.parse(line, own=True)
    if values["kind"] == "edit":
        history.edit(_edit(values, history))
        return False
    record = _record(values, history)
    history.add(record)
    return record.step.last


def _edit(values: Mapping[str, Any], history: History) -> Edit:
    """Read an edit's line; it may take history back, like a record, but not beyond the last whole round."""
    edit = Edit(**{field.name: values[field.name] for field in fields(Edit)})
    texts = edit.model, edit.checkpoint, edit.sha256, edit.replaces
    if type(edit.step) is not int or not history.whole_step <= edit.step <= history.step:
        raise ValueError
    if edit.model not in history.models or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return edit


def _record(values: Mapping[str, Any], history: History) -> Record:
    """Read a record's line."""
    number = values["step"]
    if type(number) is not int or not history.whole_step < number <= history.step + 1:
        raise ValueError
    step = history.schedule.step(number)
    if (values["kind"], values["model"], values["round"]) != (step.kind, step.model, step.round):
        raise ValueError
    metrics, source, texts = values["metrics"], values["from"], (values["checkpoint"], values["sha256"])
    sources = source if step.kind == "average" else [source]
    if not isinstance(metrics, dict) or not all(isinstance(text, str) for text in (*texts, *sources)):
        raise ValueError
    change, held_out, distance = (_numbers(values.get(key)) for key in ("change", "held_out", "distance"))
    if change is not None and not (step.last and change.keys() >= set(history.models)):
        raise ValueError
    if None in (change or {}).values() or None in (distance or {}).values():
        raise ValueError
    measured = Measured(change, held_out, distance)  # type: ignore[arg-type]  # no None is left in them
    return Record(step, source, *texts, metrics, measured, float(values["seconds"]))


def _number(value: object) -> float | None:
    """Return a number of a line of JSON, in which NaN and infinities are strings; None for anything else."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numbers(values: dict[str, object] | None) -> dict[str, float | None] | None:
    return None if values is None else {name: _number(value) for name, value in values.items()}


class History:
    """What has been done so far: the schedule depends on it, and it names the latest checkpoints.

    It can go back to the end of the last whole round and no further, so that it remembers two rounds at most: a long
    run takes no more memory than a short one.

    Args:
        schedule: the order of the steps.
        initial: the fingerprint of each model's first checkpoint.

    Attributes:
        schedule: the order of the steps.
        step: the number of the last finished step, 0 before the first.
        measured: what was measured last; nothing before the first measurement.
        stale: for how many measurements the mean held-out loss has not been smaller than ever before.
        idle: the same of each model's own held-out loss.
    """

    def __init__(self, schedule: Schedule, initial: Mapping[str, str]) -> None:
        self.schedule = schedule
        self.step = 0
        self.measured = Measured()
        self.stale, self.idle = 0, dict.fromkeys(schedule.models, 0)
        self._least, self._best = math.inf, dict.fromkeys(schedule.models, math.inf)
        self._initial = initial
        self._recent: dict[int, Record] = {}
        self._edited: dict[tuple[str, int], str] = {}  # the new fingerprints of checkpoints, by model and step
        self._synced = 0

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the ring."""
        return self.schedule.models

    @property
    def change(self) -> Mapping[str, float] | None:
        """The last measured change of the weights, by model and of the trunk; None before the first measurement."""
        return self.measured.change

    @property
    def round(self) -> int:
        """The number of whole rounds."""
        return self.schedule.whole_rounds(self.step)

    @property
    def whole_step(self) -> int:
        """The last step of the last whole round, 0 before the first."""
        return self.schedule.first_step(self.round + 1) - 1

    @property
    def safe_step(self) -> int:
        """The last step whose checkpoints were synced to disk: of a whole round, or the last one before an edit."""
        return max(self._synced, self.whole_step)

    @property
    def edited(self) -> Iterator[tuple[str, int]]:
        """The edited checkpoints that a run may still continue from: the model, and the step that wrote it."""
        return iter(self._edited)

    @property
    def last(self) -> Record | None:
        """The last finished step."""
        return self._recent.get(self.step)

    def add(self, record: Record) -> None:
        """Take in a finished step; one that is not beyond the last takes history back to before it first."""
        self.rewind(record.step.number - 1)
        self.step = record.step.number
        self._recent[self.step] = record
        if record.step.last:
            self._take(record.measured)
            first = self.schedule.first_step(record.step.round)
            for number in [number for number in self._recent if number < first]:
                del self._recent[number]
            latest = {(model, self.latest(model)) for model in self.models}
            self._edited = {place: sha256 for place, sha256 in self._edited.items() if place in latest}

    def edit(self, edit: Edit) -> None:
        """Take in an edit. What was measured before it says nothing about the weights after it."""
        self.rewind(edit.step)
        self._edited[edit.model, self.latest(edit.model)] = edit.sha256
        self._synced = edit.step
        self.measured, self.stale, self._least = Measured(), 0, math.inf
        self.idle, self._best = dict.fromkeys(self.models, 0), dict.fromkeys(self.models, math.inf)

    def _take(self, new: Measured) -> None:
        """Take in what was measured after a round."""
        old = self.measured
        self.measured = Measured(new.change or old.change, new.held_out or old.held_out, new.distance or old.distance)
        losses = {name: loss for name, loss in (new.held_out or {}).items() if loss is not None}
        for name in losses.keys() & self.idle.keys():
            self.idle[name] = 0 if losses[name] < self._best[name] else self.idle[name] + 1
            self._best[name] = min(self._best[name], losses[name])
        if losses:
            mean = math.fsum(losses.values()) / len(losses)
            self.stale = 0 if mean < self._least else self.stale + 1
            self._least = min(self._least, mean)

    def rewind(self, step: int) -> None:
        """Forget all steps after `step`.

        Raises:
            ValueError: that would be further back than the last whole round.
        """
        if step < self.whole_step:
            raise ValueError(f"step {step} is before the last whole round")
        for number in range(step + 1, self.step + 1):
            del self._recent[number]
        for place in [place for place in self._edited if place[1] > step]:
            del self._edited[place]
        self.step, self._synced = min(self.step, step), min(self._synced, step)

    def latest(self, model: str, at: int | None = None) -> int:
        """Return the step that wrote a model's present checkpoint, or the one after step `at`; 0: its first weights."""
        return next(self._written(model, self.step if at is None else at))

    def whole(self, model: str) -> int:
        """Return the step that wrote the checkpoint which the model had after the last whole round."""
        return next(self._written(model, self.whole_step))

    def fingerprint(self, model: str, step: int) -> str:
        """Return the fingerprint of a model's checkpoint that was the latest now or after the last whole round."""
        if (model, step) in self._edited:
            return self._edited[model, step]
        return self._recent[step].sha256 if step else self._initial[model]

    def listed(self, model: str, max_to_keep: int) -> list[int]:
        """Return the steps that wrote the newest checkpoints which the model had after the last whole round."""
        return list(islice(self._written(model, self.whole_step), max_to_keep))[::-1]

    def kept(self, model: str, max_to_keep: int) -> set[int]:
        """Return the steps of the checkpoints that must stay on disk: the listed ones, and all since."""
        since = takewhile(lambda number: number > self.whole_step, self._written(model, self.step))
        return {*self.listed(model, max_to_keep), *since}

    def loss(self, model: str) -> float | None:
        """Return the model's loss in its last train step, if its trainer reported one."""
        for record in reversed(self._recent.values()):
            if record.step.kind == "train" and record.step.model == model:
                return record.loss
        return None

    def _written(self, model: str, last: int) -> Iterator[int]:
        """Yield the steps up to `last` that wrote a checkpoint of the model, newest first, and 0."""
        for number in range(last, 0, -1):
            if self.schedule.writer(number) == model:
                yield number
        yield 0
