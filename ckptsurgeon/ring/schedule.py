"""The order of train, graft and average steps, as a pure function of what has been done so far.

    round r of a ring, M models:     train 1, graft 1->2, train 2, graft 2->3, …, train M,     2M-1 steps
                                     graft M->1, graft M->2, …, graft M->M-1                    M-1 steps
    round r of an average:           train 1, …, train M (all at the same time),                  M steps
                                     average, graft trunk->1, …, graft trunk->M                 M+1 steps
    round r of the warmup of either: train 1, …, train M                                          M steps

Steps are numbered from 1 over the whole run, and so are rounds; round r trains on batch r-1. Nothing here reads a
file, a clock or a random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Literal, Protocol

# The result of an averaging step: not a model, but named and stored like one.
TRUNK = "trunk"

Kind = Literal["train", "graft", "average"]


@dataclass(frozen=True)
class Step:
    """One train, graft or average step.

    Attributes:
        number: its number in the run, from 1; its checkpoint is named after it.
        round: its round, from 1.
        kind: train, graft or average.
        model: the model that gets a new checkpoint; `TRUNK` for an average.
        donor: the model whose layers are grafted, or `TRUNK`; None for other steps.
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
        criterion: what ended the run: 'weights' (of all models), 'trunk', 'held-out loss', 'models' (each by its own
            patience), or 'rounds'.
        words: what the criterion means, with the numbers of the run.
    """

    reason: Literal["converged", "limit"]
    round: int
    criterion: str
    words: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.reason == "converged":
            return f"converged after {self.round} rounds: {self.words or self.criterion}"
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
class Schedule:
    """The order of the steps of a run.

    Attributes:
        models: the names of the models in their order, 2 or more.
        kind: how the models share the trunk.
        warmup: the number of rounds before sharing begins.
    """

    models: tuple[str, ...]
    kind: Literal["ring", "average"] = "ring"
    warmup: int = 0

    @property
    def writers(self) -> tuple[str, ...]:
        """The names that checkpoints are written for: the models and, if there are averaging steps, the trunk."""
        return (*self.models, TRUNK) if self.kind == "average" else self.models

    @cached_property
    def _trains(self) -> tuple[tuple[Kind, str, str | None], ...]:
        return tuple(("train", name, None) for name in self.models)

    @cached_property
    def _round(self) -> tuple[tuple[Kind, str, str | None], ...]:
        """Return kind, model and donor of each step of a round."""
        last = self.models[-1]
        steps: list[tuple[Kind, str, str | None]] = []
        if self.kind == "average":
            steps += [*self._trains, ("average", TRUNK, None)]
            steps += [("graft", name, TRUNK) for name in self.models]
            return tuple(steps)
        for name, following in zip(self.models, self.models[1:], strict=False):
            steps += [("train", name, None), ("graft", following, name)]
        steps.append(("train", last, None))
        steps += [("graft", name, last) for name in self.models[:-1]]
        return tuple(steps)

    def steps_in(self, round: int) -> int:
        """Return the number of steps in a round."""
        return len(self._trains if round <= self.warmup else self._round)

    def first_step(self, round: int) -> int:
        """Return the number of the first step of a round."""
        warm = min(round - 1, self.warmup)
        return 1 + warm * len(self._trains) + (round - 1 - warm) * len(self._round)

    def whole_rounds(self, step: int) -> int:
        """Return the number of complete rounds when `step` is the last finished step."""
        warm = self.warmup * len(self._trains)
        if step < warm:
            return step // len(self._trains)
        return self.warmup + (step - warm) // len(self._round)

    def writer(self, number: int) -> str:
        """Return the model (or `TRUNK`) for which step `number`, counted from 1, writes a checkpoint."""
        return self._place(number)[2][1]

    def step(self, number: int) -> Step:
        """Return step `number`, counted from 1, of a run without end."""
        round, last, (kind, model, donor) = self._place(number)
        return Step(number, round, kind, model, donor, round - 1, last)

    def _place(self, number: int) -> tuple[int, bool, tuple[Kind, str, str | None]]:
        """Return a step's round, whether it is the last step of the round, and what it does."""
        warm = self.warmup * len(self._trains)
        steps, before, at = (self._trains, 0, number - 1)
        if number > warm:
            steps, before, at = self._round, self.warmup, number - 1 - warm
        rounds, index = divmod(at, len(steps))
        return before + rounds + 1, index == len(steps) - 1, steps[index]

    def together(self, number: int) -> tuple[int, ...]:
        """Return the train steps that can run at the same time as `number`: it and those up to the next other step."""
        step, found = self.step(number), [number]
        while not step.last and step.kind == "train":
            step = self.step(step.number + 1)
            if step.kind == "train":
                found.append(step.number)
        return tuple(found)


def next_step(schedule: Schedule, stop: Limits, past: Past, resting: bool = False) -> Step | Done:
    """Return the step that follows `past`, or `Done` (only between two rounds).

    Args:
        schedule: the order of the steps.
        stop: the conditions that end the run.
        past: the history so far.
        resting: whether no model trains any more.
    """
    rounds = schedule.whole_rounds(past.step)
    if past.step == schedule.first_step(rounds + 1) - 1:
        criterion = _converged(stop, past)
        if criterion is not None:
            return Done("converged", rounds, criterion, _words(criterion, stop))
        if resting:
            return Done("converged", rounds, "models", "every model's own held-out loss stopped falling")
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


def _words(criterion: str, stop: Limits) -> str:
    """Return what a criterion means."""
    between = f"between two windows of {stop.window} rounds"
    if criterion == "weights":
        return f"weights moved by at most {100 * (stop.tolerance or 0):g} % {between}"
    if criterion == "trunk":
        return f"the trunk moved by at most {100 * (stop.trunk_tolerance or 0):g} % {between}"
    windows = "1 window" if stop.patience == 1 else f"{stop.patience} windows"
    return f"held-out loss did not fall in {windows} of {stop.window} rounds"


def step_seed(seed: int, model: str, step: int) -> int:
    """Return the 31-bit seed of one step of a model; step 0 creates its initial weights."""
    return int.from_bytes(sha256(f"{seed}/{model}/{step}".encode()).digest()[:4], "big") >> 1
