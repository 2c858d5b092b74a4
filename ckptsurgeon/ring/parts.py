"""The order of train, graft and average steps, as a pure function of the settings.

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
from itertools import accumulate
from typing import Any, Literal

# The result of an averaging step: not a model, but named and stored like one.
TRUNK = "trunk"

MOST_STAGES = 1000

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
class Part:
    """Rounds that are alike.

    Attributes:
        round: the first of them.
        step: the first step of that.
        steps: kind, model and donor of each step of a round.
        models: the models, in their order.
        trunk: a layer range, or globs.
        turns: whether what was measured before no longer counts, since the trunk, the models or settings changed.
    """

    round: int
    step: int
    steps: tuple[_Action, ...]
    models: tuple[str, ...]
    trunk: str | tuple[str, ...]
    turns: bool


@dataclass(frozen=True)
class Schedule:
    """The order of the steps of a run.

    Attributes:
        models: the names of the models in their order, 2 or more.
        kind: how the models share the trunk.
        warmup: the number of rounds before sharing begins.
        trunk: after the stages: a layer range, or globs.
        stages: the trunk of the first rounds: the length of each stage in rounds, and its layers.
        freeze: the round from which on the trunk stays as it is; None: it never does.
        begins: the round from which on all this holds.
        before: what holds until then.
    """

    models: tuple[str, ...]
    kind: Literal["ring", "average"] = "ring"
    warmup: int = 0
    trunk: str | tuple[str, ...] = ""
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
        if (
            len(models) < 2
            or len(stages) > MOST_STAGES
            or any(type(number) is not int or number < 1 for number in numbers)
        ):
            raise ValueError
        layers, match = document.get("layers"), tuple(map(str, document.get("match", ())))
        return cls(models, kind, warmup, match if layers is None else str(layers), stages, freeze)

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

    def _trunk(self, round: int) -> str | tuple[str, ...]:
        ends = accumulate(rounds for rounds, _ in self.stages)
        return next((layers for end, (_, layers) in zip(ends, self.stages, strict=True) if round <= end), self.trunk)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        parts = [part for part in self.before._parts if part.round < self.begins] if self.before is not None else []
        stages = [end + 1 for end in accumulate(rounds for rounds, _ in self.stages)]
        starts = {self.warmup + 1, *stages, *([] if self.freeze is None else [self.freeze])}
        for start in [self.begins, *sorted(start for start in starts if start > self.begins)]:
            steps, step, turns = self._steps(start), 1, bool(parts) and start == self.begins
            if parts:
                last = parts[-1]
                step = last.step + (start - last.round) * len(last.steps)
                turns |= self._trunk(start) != last.trunk or self._is_frozen(start) != self._is_frozen(start - 1)
            parts.append(Part(start, step, steps, self.models, self._trunk(start), turns))
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
