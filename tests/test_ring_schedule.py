"""The schedules are the loops of a ring and of an average, written down here once more in the plainest way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon.ring.schedule import TRUNK, Done, Schedule, Step, may_end, next_step
from ckptsurgeon.ring.spec.records import Stop

Told = Iterator[tuple[str, str | None, str, int]]


@dataclass
class Past:
    """A history that only counts."""

    step: int = 0
    change: dict[str, float] | None = None
    stale: int = 0


@dataclass
class Limits:
    """When to stop."""

    tolerance: float | None = 1e-2
    trunk_tolerance: float | None = None
    patience: int | None = None
    window: int = 5
    rounds: int | None = 10**9


def names(count: int) -> tuple[str, ...]:
    return tuple(f"m{number}" for number in range(count))


def ring(models: tuple[str, ...], b: int) -> Told:
    """Write the steps of a round down as the ring is told in words; nothing is shared with the schedule."""
    count = len(models)
    for i in range(1, count + 1):
        yield "train", None, models[i - 1], b
        if i < count:
            yield "graft", models[i - 1], models[i], b
    for before in range(1, count):
        yield "graft", models[count - 1], models[before - 1], b


def average(models: tuple[str, ...], b: int) -> Told:
    """All train, one step averages, and the mean goes back into each."""
    for model in models:
        yield "train", None, model, b
    yield "average", None, TRUNK, b
    for model in models:
        yield "graft", TRUNK, model, b


def alone(models: tuple[str, ...], b: int) -> Told:
    """Every model trains for itself."""
    for model in models:
        yield "train", None, model, b


schedules = st.builds(Schedule, st.integers(2, 9).map(names), st.sampled_from(["ring", "average"]), st.integers(0, 4))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("told", [ring, average])
def test_the_order_of_the_steps_is_the_one_of_the_design(count: int, warmup: int, told: Callable[..., Told]) -> None:
    """For many models and rounds, every step is the one of the plain loop."""
    models, past, steps = names(count), Past(), []
    schedule = Schedule(models, told.__name__, warmup)  # type: ignore[arg-type]
    wanted = [step for b in range(7) for step in (alone if b < warmup else told)(models, b)]
    for _ in wanted:
        step = next_step(schedule, Limits(), past)
        assert isinstance(step, Step)
        steps.append(step)
        past.step += 1
    assert [(s.kind, s.donor, s.model, s.batch) for s in steps] == wanted


@given(schedules, st.integers(1, 10_000))
def test_steps_and_rounds_are_numbered_from_one(schedule: Schedule, number: int) -> None:
    """Step n is numbered n; its round trains on the batch before it, and its last step is marked."""
    step, following = schedule.step(number), schedule.step(number + 1)
    assert step.number == number
    assert step.batch == step.round - 1
    assert schedule.first_step(step.round) <= number < schedule.first_step(step.round + 1)
    assert following.round == step.round + step.last
    assert schedule.whole_rounds(number) == step.round - (not step.last)
    size = schedule.first_step(step.round + 1) - schedule.first_step(step.round)
    assert len(schedule.part(step.round).steps) == size
    assert schedule.writer(number) == step.model
    assert step.model in schedule.writers


@given(schedules, st.integers(1, 5))
def test_after_a_round_all_trunks_are_the_same(schedule: Schedule, rounds: int) -> None:
    """Whatever training does to a trunk, all models hold one trunk at the end of a round that shares it."""
    trunks = {model: f"first of {model}" for model in schedule.models}
    for number in range(1, schedule.first_step(schedule.warmup + rounds + 1)):
        step = schedule.step(number)
        trunks[step.model] = f"made in step {number}" if step.donor is None else trunks[step.donor]
        if step.last:
            shared = step.round > schedule.warmup
            assert len({trunks[model] for model in schedule.models}) == (1 if shared else len(schedule.models))


@given(schedules, st.integers(1, 300))
def test_what_is_done_at_the_same_time_depends_on_nothing_in_between(schedule: Schedule, number: int) -> None:
    """Those are train steps of one round, each of another model; in a ring there is one at a time."""
    step = schedule.step(number)
    together = [schedule.step(each) for each in schedule.together(number)]
    assert together[0] == step
    if step.kind == "train":
        assert {each.kind for each in together} == {"train"}
        assert {each.round for each in together} == {step.round}
        assert len({each.model for each in together}) == len(together)
        alone = schedule.kind == "ring" and step.round > schedule.warmup
        assert (len(together) == 1) == (alone or step.model == schedule.models[-1])


W = "weights"


@pytest.mark.parametrize(
    ("limits", "change", "stale", "words"),
    [
        ({}, {"m0": 0.0, "m1": 0.0}, 0, "weights moved by at most 1 % between two windows of 20 rounds"),
        ({"tolerance": 3e-4, "window": 5}, {"m0": 0.0, "m1": 0.0}, 0, "at most 0.03 % between two windows of 5 rounds"),
        ({"trunk_tolerance": 0.5}, {"m0": 1.0, TRUNK: 0.5}, 0, "the trunk moved by at most 50 % between two windows"),
        ({"patience": 1}, None, 1, "held-out loss did not fall in 1 window of 20 rounds"),
        ({"patience": 3}, None, 3, "held-out loss did not fall in 3 windows of 20 rounds"),
    ],
)
def test_converged_says_what_it_means(
    limits: dict[str, Any], change: dict[str, float] | None, stale: int, words: str
) -> None:
    """The criterion in words, with the numbers of the run."""
    schedule = Schedule(names(2))
    done = next_step(schedule, Stop(**limits), Past(schedule.first_step(41) - 1, change, stale))
    assert str(done).startswith("converged after 40 rounds: ")
    assert words in str(done)


@pytest.mark.parametrize("models", [2, 3, 5])
@pytest.mark.parametrize(
    ("rounds", "change", "stale", "limits", "expected"),
    [
        (0, None, 0, {}, None),
        (4, {"m0": 0.5, "m1": 0.001, TRUNK: 0.0}, 0, {}, None),
        (4, {"m0": 0.01, "m1": 0.001, TRUNK: 0.5}, 0, {}, Done("converged", 4, W)),
        (5, None, 0, {}, Done("limit", 5, "rounds")),
        (6, {"m0": 0.5, "m1": 0.001}, 0, {}, Done("limit", 6, "rounds")),
        (6, {"m0": 0.5, "m1": 0.001}, 0, {"rounds": None}, None),
        (5, {"m0": 0.0, "m1": 0.0}, 0, {}, Done("converged", 5, W)),
        (4, {"m0": 0.0, "m1": 0.0}, 0, {"tolerance": None}, None),
        (4, {"m0": float("nan"), "m1": 0.0}, 0, {}, None),
        (4, {"m0": float("inf"), "m1": 0.0}, 0, {}, None),
        (4, {"m0": 0.5, TRUNK: 0.01}, 0, {"trunk_tolerance": 0.01}, Done("converged", 4, "trunk")),
        (4, {"m0": 0.5, TRUNK: 0.02}, 0, {"trunk_tolerance": 0.01}, None),
        (4, {"m0": 0.0, TRUNK: 0.0}, 0, {"trunk_tolerance": 0.01}, Done("converged", 4, W)),
        (4, None, 2, {"patience": 3}, None),
        (4, None, 3, {"patience": 3}, Done("converged", 4, "held-out loss")),
        (4, None, 30, {}, None),
    ],
)
def test_a_run_is_done_when_it_has_converged_or_the_rounds_are_used_up(
    models: int,
    rounds: int,
    change: dict[str, float] | None,
    stale: int,
    limits: dict[str, float | None],
    expected: Done | None,
) -> None:
    """One model that still moves keeps all going; NaN never counts as converged; the criterion is told."""
    schedule = Schedule(names(models))
    past = Past(schedule.first_step(rounds + 1) - 1, change, stale)
    step = next_step(schedule, Limits(**{"tolerance": 0.01, "rounds": 5, **limits}), past)  # type: ignore[arg-type]
    assert step == (expected if expected is not None else schedule.step(past.step + 1))


@given(schedules, st.integers(0, 500))
def test_a_run_never_ends_in_the_middle_of_a_round(schedule: Schedule, step: int) -> None:
    """Even where everything has converged and no round is left, the round that began is ended."""
    done = next_step(schedule, Limits(rounds=1), Past(step, {"m0": 0.0}))
    whole = step == 0 or schedule.step(step).last
    assert isinstance(done, Done) == whole


@given(schedules, st.integers(1, 300), st.integers(1, 9), st.none() | st.integers(1, 40))
def test_where_a_run_may_end_is_known_before_its_weights_are_measured(
    schedule: Schedule, number: int, window: int, rounds: int | None
) -> None:
    """At the end of a block of rounds, and at the limit: nowhere else does anything that is measured end it."""
    step, limits = schedule.step(number), Limits(1e9, 1e9, 1, window, rounds)
    ends_block = step.last and step.round % window == 0
    assert may_end(step, limits) == (ends_block or (step.last and rounds is not None and step.round >= rounds))
