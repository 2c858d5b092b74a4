"""What a run has done so far: records of finished steps, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


def parse(line: bytes, history: History) -> Record:
    """Read a record's line.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError: it is not a record, or one that cannot
            follow `history`.
    """
    values = json_text.parse(line, own=True)
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
    """

    def __init__(self, schedule: Schedule, initial: Mapping[str, str]) -> None:
        self.schedule = schedule
        self.step = 0
        self.measured = Measured()
        self.stale = 0
        self._least = math.inf
        self._initial = initial
        self._recent: dict[int, Record] = {}

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

    def _take(self, new: Measured) -> None:
        """Take in what was measured after a round."""
        old = self.measured
        self.measured = Measured(new.change or old.change, new.held_out or old.held_out, new.distance or old.distance)
        losses = [loss for loss in (new.held_out or {}).values() if loss is not None]
        if losses:
            mean = math.fsum(losses) / len(losses)
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
        self.step = min(self.step, step)

    def latest(self, model: str) -> int:
        """Return the step that wrote the model's present checkpoint; 0 for its first weights."""
        return next(self._written(model, self.step))

    def whole(self, model: str) -> int:
        """Return the step that wrote the checkpoint which the model had after the last whole round."""
        return next(self._written(model, self.whole_step))

    def fingerprint(self, model: str, step: int) -> str:
        """Return the fingerprint of a model's checkpoint that was the latest now or after the last whole round."""
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
