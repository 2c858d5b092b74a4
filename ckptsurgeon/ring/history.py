"""What a run has done so far: records of finished steps, and what can be told from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from .folder import relative_checkpoint
from .schedule import Step, per_round, step_at


@dataclass(frozen=True)
class Record:
    """One finished step.

    Attributes:
        step: the step of the schedule.
        source: the checkpoint that it started from (train) or took layers from (graft), relative to the run's
            folder.
        sha256: the fingerprint of the checkpoint that it wrote.
        metrics: what the trainer measured; empty for a graft.
        change: how much the weights of each model moved, where it was measured after this step.
        seconds: how long the step took.
    """

    step: Step
    source: str
    sha256: str
    metrics: Mapping[str, Any]
    change: Mapping[str, float] | None
    seconds: float

    @property
    def loss(self) -> float | None:
        """The loss among the metrics, if there is one."""
        value = self.metrics.get("loss")
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

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
            "checkpoint": relative_checkpoint(step.model, step.number),
            "sha256": self.sha256,
            "metrics": self.metrics,
            "change": self.change,
            "seconds": round(self.seconds, 6),
        }
        return to_json(values).encode() + b"\n"


def parse(line: bytes, history: History) -> Record:
    """Read a record's line.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: it is no record, or none that can follow `history`.
    """
    values = json.loads(line)
    number = values["step"]
    if type(number) is not int or not history.whole_step < number <= history.step + 1:
        raise ValueError
    step = step_at(history.models, number)
    if (values["kind"], values["model"], values["round"]) != (step.kind, step.model, step.round):
        raise ValueError
    metrics, change, texts = values["metrics"], values["change"], (values["from"], values["sha256"])
    if not isinstance(metrics, dict) or not all(isinstance(text, str) for text in texts):
        raise ValueError
    if change is not None:
        if not step.last:
            raise ValueError
        change = {name: float(change[name]) for name in history.models}
    return Record(step, *texts, metrics, change, float(values["seconds"]))


class History:
    """What has been done, for the schedule and for whoever wants to know where things are.

    It can go back to the end of the last whole round and no further, so that it remembers two rounds at most: a long
    run takes no more memory than a short one.

    Args:
        models: the names of the models, in the order of the ring.
        initial: the fingerprint of each model's first checkpoint.

    Attributes:
        step: the number of the last finished step, 0 before the first.
        change: the last measured change of each model's weights; None before the first measurement.
    """

    def __init__(self, models: tuple[str, ...], initial: Mapping[str, str]) -> None:
        self.models = models
        self.step = 0
        self.change: Mapping[str, float] | None = None
        self._initial = initial
        self._recent: dict[int, Record] = {}
        self._length = per_round(len(models))
        self._writers = [step_at(models, number).model for number in range(1, self._length + 1)]

    @property
    def round(self) -> int:
        """The number of whole rounds."""
        return self.step // self._length

    @property
    def whole_step(self) -> int:
        """The last step of the last whole round, 0 before the first."""
        return self.round * self._length

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
            self.change = record.change or self.change
            for number in [number for number in self._recent if number <= self.step - self._length]:
                del self._recent[number]

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
        """Return the model's loss in its last train step, where its trainer told one."""
        for number in self._written(model, self.step):
            if number in self._recent and self._recent[number].step.kind == "train":
                return self._recent[number].loss
        return None

    def _written(self, model: str, last: int) -> Iterator[int]:
        """Yield the steps up to `last` that wrote a checkpoint of the model, newest first, and 0."""
        for number in range(last, 0, -1):
            if self._writers[(number - 1) % self._length] == model:
                yield number
        yield 0


def to_json(value: object) -> str:
    """Write strict JSON: NaN and infinities as strings."""
    return json.dumps(_finite(value), separators=(", ", ": "), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
