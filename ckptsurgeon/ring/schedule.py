"""Which step comes next: the ring's order of train and graft, as a pure function of what has been done.

    round r, M models:   train 1, graft 1->2, train 2, graft 2->3, …, train M,       2M-1 steps
                         graft M->1, graft M->2, …, graft M->M-1                      M-1 steps

Steps are numbered from 1 over the whole run, and so are rounds; round r trains on batch r-1. Nothing here
reads a file, a clock or a random number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Step:
    """One train or one graft.

    Attributes:
        number: its place in the run, from 1; its checkpoint is named after it.
        round: the round that it belongs to, from 1.
        kind: what is done.
        model: the model that gets a new checkpoint.
        donor: the model whose layers are grafted into it; None for a train step.
        batch: the mini-batch that all models of the round train on, from 0.
        last: whether the round ends with it.
    """

    number: int
    round: int
    kind: Literal["train", "graft"]
    model: str
    donor: str | None
    batch: int
    last: bool


@dataclass(frozen=True)
class Done:
    """There is no next step.

    Attributes:
        reason: 'converged' when the weights of all models have, 'limit' when the rounds are used up.
        round: how many rounds were done.
    """

    reason: Literal["converged", "limit"]
    round: int

    def __str__(self) -> str:
        if self.reason == "converged":
            return f"converged after {self.round} rounds"
        return f"limit of {self.round} rounds reached"


class Past(Protocol):
    """What the schedule needs to know of a run's history."""

    @property
    def step(self) -> int:
        """The number of the last finished step, 0 before the first."""

    @property
    def change(self) -> Mapping[str, float] | None:
        """The last measured change of each model's weights; None before the first measurement."""


class Limits(Protocol):
    """When a run ends."""

    @property
    def tolerance(self) -> float:
        """The change of its weights at which a model counts as converged."""

    @property
    def window(self) -> int:
        """The rounds of a block, at whose end the change is measured."""

    @property
    def rounds(self) -> int:
        """The number of rounds after which the run ends in any case."""


def per_round(models: int) -> int:
    """Return the number of steps in a round of `models` models, 2 or more."""
    return 3 * models - 2


def next_step(models: Sequence[str], stop: Limits, past: Past) -> Step | Done:
    """Return the step that follows `past`, or that the run is done (only ever said between two rounds).

    Args:
        models: the names of the models in their order, 2 or more.
        stop: when the run ends.
        past: what has been done.
    """
    rounds, index = divmod(past.step, per_round(len(models)))
    if index == 0:
        if past.change is not None and all(value <= stop.tolerance for value in past.change.values()):
            return Done("converged", rounds)
        if rounds >= stop.rounds:
            return Done("limit", rounds)
    return step_at(models, past.step + 1)


def may_end(step: Step, stop: Limits) -> bool:
    """Whether the run may be done after a step: at the limit of rounds, or where the change of weights is measured."""
    return step.last and (step.round >= stop.rounds or step.round % stop.window == 0)


def step_at(models: Sequence[str], number: int) -> Step:
    """Return step `number`, counted from 1, of an endless run."""
    rounds, index = divmod(number - 1, per_round(len(models)))
    forward = 2 * len(models) - 1
    donor: str | None = None
    if index >= forward:
        donor, model = models[-1], models[index - forward]
    elif index % 2:
        donor, model = models[index // 2], models[index // 2 + 1]
    else:
        model = models[index // 2]
    last = index == per_round(len(models)) - 1
    return Step(number, rounds + 1, "graft" if donor else "train", model, donor, rounds, last)
