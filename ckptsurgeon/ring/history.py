"""What a run has done so far, and what follows from that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import Any

from .learning_rate import Rate, at, is_plain
from .lines import Edit, Measured, Record, Settings, Variables
from .schedule import Schedule


class History:
    """What has been done so far: the schedule depends on it, and it names the latest checkpoints.

    It can go back to the end of the last whole round and no further, so that it remembers two rounds at most: a long
    run takes no more memory than a short one.

    Args:
        schedule: the order of the steps.
        initial: the fingerprint of each model's first checkpoint.
        document: the spec of the run, as in the head of the journal.
        variables: the dtype and the shape of each variable of each model.

    Attributes:
        schedule: the order of the steps.
        document: the spec of the run as it is by now.
        variables: the dtype and the shape of each variable of each model.
        initial: the fingerprint of each model's first checkpoint.
        step: the number of the last finished step, 0 before the first.
        measured: what was measured last; nothing before the first measurement.
        stale: for how many measurements the mean held-out loss has not been smaller than ever before.
        idle: the same of each model's own held-out loss.
    """

    def __init__(
        self,
        schedule: Schedule,
        initial: Mapping[str, str],
        document: Mapping[str, Any] | None = None,
        variables: Mapping[str, Variables] | None = None,
    ) -> None:
        self.schedule = schedule
        self.document = document or {}
        self.variables = variables or {}
        # The tables of the models, with the first round for which they hold. The first ones made the first weights,
        # even if round 1 has others.
        self._models = [(0, _by_name(self.document))]
        self.step = 0
        self.measured = Measured()
        self.stale, self.idle = 0, dict.fromkeys(schedule.models, 0)
        self._least, self._best = math.inf, dict.fromkeys(schedule.models, math.inf)
        self.initial = initial
        self._recent: dict[int, Record] = {}
        self._edited: dict[tuple[str, int], str] = {}  # the new fingerprints of checkpoints, by model and step
        self._synced = self._furthest = 0
        self._edited_since = False  # whether there was an edit after the last whole round

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
    def furthest(self) -> int:
        """The last step that a driver can have begun: trainers work on the round that follows an unfinished one."""
        return self.schedule.first_step(self.schedule.whole_rounds(self._furthest) + 3) - 1

    @property
    def edited(self) -> Iterator[tuple[str, int]]:
        """The edited checkpoints that a run may still continue from: the model, and the step that wrote it."""
        return iter(self._edited)

    @property
    def measures_anew(self) -> bool:
        """Whether the blocks of rounds that convergence is measured over begin anew with the round after `round`."""
        return self._edited_since or self.schedule.turns(self.round + 1)

    @property
    def last(self) -> Record | None:
        """The last finished step."""
        return self._recent.get(self.step)

    def add(self, record: Record) -> None:
        """Take in a finished step; one that is not beyond the last takes history back to before it first."""
        self.rewind(record.step.number - 1)
        self.step = record.step.number
        self._furthest = max(self._furthest, self.step)
        self._recent[self.step] = record
        if record.step.last:
            self._edited_since = False
            self._take(record.measured)
            if self.schedule.turns(record.step.round + 1):
                self._begin_to_measure()
            first = self.schedule.first_step(record.step.round)
            for number in [number for number in self._recent if number < first]:
                del self._recent[number]
            latest = {(model, self.latest(model)) for model in self.models}
            self._edited = {place: sha256 for place, sha256 in self._edited.items() if place in latest}

    def edit(self, edit: Edit) -> None:
        """Take in an edit. What was measured before it says nothing about the weights after it."""
        self.rewind(edit.step)
        self._edited[edit.model, self.latest(edit.model)] = edit.sha256
        self._synced, self._edited_since = edit.step, True
        self._begin_to_measure()

    def change_settings(self, new: Settings) -> None:
        """Take in a change of ring.toml."""
        self.rewind(new.step)
        self.document = new.spec
        self.schedule = self.schedule.then(new.round, Schedule.of(new.spec))
        self.variables = {**self.variables, **new.variables}
        self.initial = {**self.initial, **new.initial}
        self._models = [each for each in self._models if each[0] < new.round] + [(new.round, _by_name(new.spec))]
        self._begin_to_measure()

    def learning_rate(self, model: str, round: int) -> float | None:
        """Return the learning rate of a model in a round; None: the one that its trainer was begun with.

        A number that never changed is left to the built-in trainer, which keeps it in the checkpoint, where it may be
        edited.
        """
        tables = [models[model] for first, models in self._models if first <= round and model in models]
        rates: list[Rate | None] = [table.get("learning_rate") for table in tables]
        if not rates or rates[-1] is None:
            return None
        never_changed = is_plain(rates[0]) and all(rate == rates[0] for rate in rates)
        return None if never_changed and tables[0].get("hidden_units") is not None else at(rates[-1], round)

    def _begin_to_measure(self) -> None:
        """Forget what was measured: it says nothing about what follows."""
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
        return self._recent[step].sha256 if step else self.initial[model]

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
        yield from self.schedule.written(model, last)
        yield 0


def _by_name(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the table of each model of a spec."""
    return {table["name"]: table for table in document.get("models", ())}
