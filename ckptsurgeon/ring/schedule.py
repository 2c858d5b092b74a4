"""Which step follows, and when a run ends, as a pure function of what has been done so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, Protocol

from .parts import TRUNK as TRUNK
from .parts import Kind as Kind
from .parts import Part as Part
from .parts import Schedule as Schedule
from .parts import Step as Step


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
        waits = schedule.turns_after(rounds)
        criterion = None if waits else _converged(stop, past)
        if criterion is not None:
            return Done("converged", rounds, criterion, _words(criterion, stop))
        if resting and not waits:
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
