"""The order of train, graft and average steps, as a pure function of what has been done so far.

    round r of a ring, M models:     train 1, graft 1->2, train 2, graft 2->3, …, train M,     2M-1 steps
                                     graft M->1, graft M->2, …, graft M->M-1                    M-1 steps
    round r of an average:           train 1, …, train M (all at the same time),                  M steps
                                     average, graft trunk->1, …, graft trunk->M                 M+1 steps
    round r of the warmup of either: train 1, …, train M                                          M steps
    round r with a frozen trunk:     train 1, …, train M (at the same time),                      M steps
                                     freeze 1, …, freeze M: the trunk that model 1 had before     M steps

What changes from a round on (the layers of the trunk, models that join) begins a new part of the schedule. Steps are
numbered from 1 over the whole run, and so are rounds; round r trains on batch r-1. Nothing here reads a file, a clock
or a random number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Protocol

# The result of an averaging step: not a model, but named and stored like one.
TRUNK = "trunk"

Kind = Literal["train", "graft", "average", "freeze"]

_Action = tuple[Kind, str, str | None]  # kind, model and donor of a step


@dataclass(frozen=True)
class Step:
    """One train, graft, average or freeze step.

    Attributes:
        number: its number in the run, from 1; its checkpoint is named after it.
        round: its round, from 1.
        kind: train, graft, average or freeze.
        model: the model that gets a new checkpoint; `TRUNK` for an average.
        donor: the model whose layers are grafted, or `TRUNK`; a freeze grafts those that it had before the round; None
            for other steps.
        batch: the mini-batch that all models of the round train on, from 0.
        last: whether it is the last step of its round.
    """

    number: int
    round: int
    kind: Kind
    model: str
    donor: str | None
    batch: int
    last: bool


@dataclass(frozen=True)
class Done:
    """The run has no next step.

    Attributes:
        reason: 'converged', or 'limit' if the limit of rounds is reached.
        round: the number of completed rounds.
        criterion: what ended the run: 'weights' (of all models), 'trunk', 'held-out loss', or 'rounds'.
    """

    reason: Literal["converged", "limit"]
    round: int
    criterion: str

    def __str__(self) -> str:
        if self.reason == "converged":
            return f"converged after {self.round} rounds, by the {self.criterion}"
        return f"limit of {self.round} rounds reached"


class Past(Protocol):
    """The parts of a run's history that the schedule needs."""

    @property
    def step(self) -> int:
        """The number of the last finished step, 0 before the first."""

    @property
    def change(self) -> Mapping[str, float] | None:
        """The last measured change of the weights, by model and of `TRUNK`; None before the first measurement."""

    @property
    def stale(self) -> int:
        """The number of measurements since the mean held-out loss was last smaller than ever before."""


class Limits(Protocol):
    """The conditions that end a run."""

    @property
    def tolerance(self) -> float | None:
        """The largest change of its weights at which a model has converged; None: weights do not end the run."""

    @property
    def trunk_tolerance(self) -> float | None:
        """The largest change of the trunk at which the run has converged; None: the trunk does not end the run."""

    @property
    def patience(self) -> int | None:
        """The measurements without a smaller held-out loss after which a run has converged; None: no such limit."""

    @property
    def window(self) -> int:
        """The number of rounds in a block, at the end of which the change is measured."""

    @property
    def rounds(self) -> int | None:
        """The number of rounds after which the run ends in any case; None for no limit."""


@dataclass(frozen=True)
class Part:
    """Rounds that are alike.

    Attributes:
        round: the first of them.
        step: the first step of that.
        steps: kind, model and donor of each step of a round.
        models: the models, in their order.
        layers: the trunk, a layer range.
        turns: whether what was measured before no longer counts, since the trunk, the models or settings changed.
    """

    round: int
    step: int
    steps: tuple[_Action, ...]
    models: tuple[str, ...]
    layers: str
    turns: bool


@dataclass(frozen=True)
class Schedule:
    """The order of the steps of a run.

    Attributes:
        models: the names of the models in their order, 2 or more.
        kind: how the models share the trunk.
        warmup: the number of rounds before sharing begins.
        layers: the trunk, after the stages.
        stages: the trunk of the first rounds: the length of each stage in rounds, and its layers.
        freeze: the round from which on the trunk stays as it is; None: it never does.
        begins: the round from which on all this holds.
        before: what holds until then.
    """

    models: tuple[str, ...]
    kind: Literal["ring", "average"] = "ring"
    warmup: int = 0
    layers: str = ""
    stages: tuple[tuple[int, str], ...] = ()
    freeze: int | None = None
    begins: int = 1
    before: Schedule | None = None

    def then(self, round: int, following: Schedule) -> Schedule:
        """Return a schedule that is this one until `round`, and from that round on another one."""
        before: Schedule | None = self
        while before is not None and before.begins >= round:
            before = before.before
        return replace(following, begins=round, before=before)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Schedule:
        """Return the schedule of a spec as a journal holds it; ValueError, KeyError or TypeError if it has none."""
        models = tuple(map(str, document.get("order") or (model["name"] for model in document["models"])))
        kind, warmup = document.get("schedule", "ring"), document.get("warmup", 0)
        stages = tuple((stage["rounds"], str(stage["layers"])) for stage in document.get("stages", ()))
        freeze = document.get("freeze")
        numbers = [rounds for rounds, _ in stages] + ([] if freeze is None else [freeze])
        if kind not in ("ring", "average") or type(warmup) is not int or warmup < 0:
            raise ValueError
        if len(models) < 2 or any(type(number) is not int or number < 1 for number in numbers):
            raise ValueError
        return cls(models, kind, warmup, str(document.get("layers", "")), stages, freeze)

    @property
    def writers(self) -> tuple[str, ...]:
        """The names that checkpoints are written for: the models and, if there are averaging steps, the trunk."""
        return (*self.models, TRUNK) if self.kind == "average" else self.models

    @cached_property
    def _trains(self) -> tuple[_Action, ...]:
        return tuple(("train", name, None) for name in self.models)

    @cached_property
    def _shared(self) -> tuple[_Action, ...]:
        """Return the steps of a round that shares the trunk."""
        last = self.models[-1]
        steps: list[_Action] = []
        if self.kind == "average":
            steps += [*self._trains, ("average", TRUNK, None)]
            steps += [("graft", name, TRUNK) for name in self.models]
            return tuple(steps)
        for name, following in zip(self.models, self.models[1:], strict=False):
            steps += [("train", name, None), ("graft", following, name)]
        steps.append(("train", last, None))
        steps += [("graft", name, last) for name in self.models[:-1]]
        return tuple(steps)

    def _steps(self, round: int) -> tuple[_Action, ...]:
        if round <= self.warmup:
            return self._trains
        if self._is_frozen(round):
            return (*self._trains, *(("freeze", name, self.models[0]) for name in self.models))
        return self._shared

    def _is_frozen(self, round: int) -> bool:
        return self.freeze is not None and round >= self.freeze

    def _layers(self, round: int) -> str:
        end = 0
        for rounds, layers in self.stages:
            end += rounds
            if round <= end:
                return layers
        return self.layers

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        parts = [part for part in self.before._parts if part.round < self.begins] if self.before is not None else []
        stages = [sum(rounds for rounds, _ in self.stages[:count]) + 1 for count in range(1, len(self.stages) + 1)]
        starts = {self.warmup + 1, *stages, *([] if self.freeze is None else [self.freeze])}
        for start in [self.begins, *sorted(start for start in starts if start > self.begins)]:
            steps, step, turns = self._steps(start), 1, bool(parts) and start == self.begins
            if parts:
                last = parts[-1]
                step = last.step + (start - last.round) * len(last.steps)
                turns |= self._layers(start) != last.layers or self._is_frozen(start) != self._is_frozen(start - 1)
            parts.append(Part(start, step, steps, self.models, self._layers(start), turns))
        return tuple(parts)

    @cached_property
    def _first_rounds(self) -> list[int]:
        return [part.round for part in self._parts]

    @cached_property
    def _first_steps(self) -> list[int]:
        return [part.step for part in self._parts]

    def part(self, round: int) -> Part:
        """Return the part of the schedule that a round, counted from 1, belongs to."""
        return self._parts[bisect_right(self._first_rounds, round) - 1]

    def turns(self, round: int) -> bool:
        """Return whether what was measured before this round does not count any more."""
        part = self.part(round)
        return part.turns and part.round == round

    def turns_after(self, round: int) -> bool:
        """Return whether such a round is still to come after this one."""
        return any(part.turns for part in self._parts[bisect_right(self._first_rounds, round) :])

    def steps_in(self, round: int) -> int:
        """Return the number of steps in a round."""
        return len(self.part(round).steps)

    def first_step(self, round: int) -> int:
        """Return the number of the first step of a round."""
        part = self.part(round)
        return part.step + (round - part.round) * len(part.steps)

    def whole_rounds(self, step: int) -> int:
        """Return the number of complete rounds when `step` is the last finished step."""
        part = self._parts[bisect_right(self._first_steps, step + 1) - 1]
        return part.round - 1 + (step + 1 - part.step) // len(part.steps)

    def writer(self, number: int) -> str:
        """Return the model (or `TRUNK`) for which step `number`, counted from 1, writes a checkpoint."""
        return self._place(number)[2][1]

    def written(self, name: str, last: int) -> Iterator[int]:
        """Yield the steps up to `last` that write a checkpoint of a model (or `TRUNK`), newest first."""
        for part in reversed(self._parts):
            places = [place for place, (_, writer, _) in enumerate(part.steps) if writer == name][::-1]
            if places and part.step <= last:
                size = len(part.steps)
                for round in range((last - part.step) // size, -1, -1):
                    first = part.step + round * size
                    yield from (first + place for place in places if first + place <= last)
            last = min(last, part.step - 1)

    def step(self, number: int) -> Step:
        """Return step `number`, counted from 1, of a run without end."""
        round, last, (kind, model, donor) = self._place(number)
        return Step(number, round, kind, model, donor, round - 1, last)

    def _place(self, number: int) -> tuple[int, bool, _Action]:
        """Return a step's round, whether it is the last step of the round, and what it does."""
        part = self._parts[bisect_right(self._first_steps, number) - 1]
        rounds, index = divmod(number - part.step, len(part.steps))
        return part.round + rounds, index == len(part.steps) - 1, part.steps[index]

    def together(self, number: int) -> tuple[int, ...]:
        """Return the train steps that can run at the same time as `number`: it and those up to the next other step."""
        step, found = self.step(number), [number]
        while not step.last and step.kind == "train":
            step = self.step(step.number + 1)
            if step.kind == "train":
                found.append(step.number)
        return tuple(found)


def next_step(schedule: Schedule, stop: Limits, past: Past) -> Step | Done:
    """Return the step that follows `past`, or `Done` (only between two rounds).

    Args:
        schedule: the order of the steps.
        stop: the conditions that end the run.
        past: the history so far.
    """
    rounds = schedule.whole_rounds(past.step)
    if past.step == schedule.first_step(rounds + 1) - 1:
        criterion = None if schedule.turns_after(rounds) else _converged(stop, past)
        if criterion is not None:
            return Done("converged", rounds, criterion)
        if stop.rounds is not None and rounds >= stop.rounds:
            return Done("limit", rounds, "rounds")
    return schedule.step(past.step + 1)


def may_end(step: Step, stop: Limits) -> bool:
    """Return whether the run may end after a step: at the limit of rounds, or when weight changes are measured."""
    at_limit = stop.rounds is not None and step.round >= stop.rounds
    return step.last and (at_limit or step.round % stop.window == 0)


def _converged(stop: Limits, past: Past) -> str | None:
    """Return the criterion by which the run has converged, or None."""
    change = past.change
    if change is not None:
        models = [value for name, value in change.items() if name != TRUNK]
        if stop.tolerance is not None and all(value <= stop.tolerance for value in models):
            return "weights"
        if stop.trunk_tolerance is not None and change.get(TRUNK, float("inf")) <= stop.trunk_tolerance:
            return "trunk"
    if stop.patience is not None and past.stale >= stop.patience:
        return "held-out loss"
    return None


def step_seed(seed: int, model: str, step: int) -> int:
    """Return the 31-bit seed of one step of a model; step 0 creates its initial weights."""
    return int.from_bytes(sha256(f"{seed}/{model}/{step}".encode()).digest()[:4], "big") >> 1
