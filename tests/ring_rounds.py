"""Rounds of rings that nobody trained, for the tests of what shows a run."""

from __future__ import annotations

from collections.abc import Iterator

from ckptsurgeon.ring.history import History, Measured, Record
from ckptsurgeon.ring.schedule import Schedule

NAMES = ("a", "b", "c")
WINDOW = 2


def fresh(names: tuple[str, ...] = NAMES) -> History:
    return History(Schedule(names), dict.fromkeys(names, "x"))


def loss(name: str, round: int) -> float:
    return 1 / round + NAMES.index(name)


def measured(round: int) -> Measured:
    if round % WINDOW:
        return Measured()
    each = {name: 1 / (round + place) for place, name in enumerate(NAMES)}
    return Measured({**each, "trunk": 0.5 / round}, {**each, "c": None}, each)


def play(history: History, rounds: int) -> Iterator[History]:
    """Do rounds, as a driver would, and yield the history after each."""
    last = history.round + rounds
    while history.round < last:
        step = history.schedule.step(history.step + 1)
        metrics = {"loss": loss(step.model, step.round)} if step.kind == "train" else {}
        what = measured(step.round) if step.last else Measured()
        history.add(Record(step, "from", "to", "sha", metrics, what, 0.1))
        if step.last:
            yield history
