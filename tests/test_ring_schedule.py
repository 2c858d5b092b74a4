"""The schedule is the ring's loop, written down here once more in the plainest way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon.ring.schedule import Done, Step, next_step, per_round, step_at


@dataclass
class Past:
    """A history that only counts."""

    step: int = 0
    change: dict[str, float] | None = None


@dataclass
class Limits:
    """When to stop."""

    tolerance: float = 1e-2
    rounds: int = 10**9
    models: list[str] = field(default_factory=list)


def names(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def pseudo_code(models: list[str], batches: int) -> Iterator[tuple[str, str | None, str, int]]:
    """Write the steps down as the ring is told in words; nothing is shared with the schedule."""
    count = len(models)
    for b in range(batches):
        for i in range(1, count + 1):
            yield "train", None, models[i - 1], b
            if i < count:
                yield "graft", models[i - 1], models[i], b
        for before in range(1, count):
            yield "graft", models[count - 1], models[before - 1], b


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 13])
def test_the_order_of_train_and_graft_is_the_one_of_the_design(count: int) -> None:
    """For many models and rounds, every step is the one of the pseudo-code."""
    models, past, steps = names(count), Past(), []
    for _ in range(7 * per_round(count)):
        step = next_step(models, Limits(), past)
        assert isinstance(step, Step)
        steps.append(step)
        past.step += 1
    assert [(s.kind, s.donor, s.model, s.batch) for s in steps] == list(pseudo_code(models, 7))


@given(st.integers(2, 20), st.integers(1, 10_000))
def test_steps_and_rounds_are_numbered_from_one(count: int, number: int) -> None:
    """Step n is numbered n; its round trains on the batch before it, and its last step is marked."""
    step = step_at(names(count), number)
    assert step.number == number
    assert step.round == (number - 1) // (3 * count - 2) + 1
    assert step.batch == step.round - 1
    assert step.last == (number % (3 * count - 2) == 0)


@given(st.integers(2, 9), st.integers(1, 5))
def test_after_a_round_all_trunks_are_the_last_models(count: int, rounds: int) -> None:
    """Whatever training does to a trunk, all models hold the last model's trunk at the end of a round."""
    models = names(count)
    trunks = {model: f"first of {model}" for model in models}
    for number in range(1, rounds * per_round(count) + 1):
        step = step_at(models, number)
        trunks[step.model] = f"trained in step {number}" if step.donor is None else trunks[step.donor]
        if step.last:
            assert len(set(trunks.values())) == 1


@pytest.mark.parametrize("models", [2, 3, 5])
@pytest.mark.parametrize(
    ("rounds", "change", "expected"),
    [
        (0, None, None),
        (4, {"m0": 0.5, "m1": 0.001}, None),
        (4, {"m0": 0.01, "m1": 0.001}, Done("converged", 4)),
        (5, None, Done("limit", 5)),
        (6, {"m0": 0.5, "m1": 0.001}, Done("limit", 6)),
        (5, {"m0": 0.0, "m1": 0.0}, Done("converged", 5)),
        (4, {"m0": float("nan"), "m1": 0.0}, None),
        (4, {"m0": float("inf"), "m1": 0.0}, None),
    ],
)
def test_a_run_is_done_when_all_models_have_converged_or_the_rounds_are_used_up(
    models: int, rounds: int, change: dict[str, float] | None, expected: Done | None
) -> None:
    """One model that still moves keeps all going; NaN never counts as converged."""
    past = Past(rounds * per_round(models), change)
    step = next_step(names(models), Limits(tolerance=0.01, rounds=5), past)
    assert step == (expected if expected is not None else step_at(names(models), past.step + 1))


@given(st.integers(2, 9), st.integers(0, 500))
def test_a_run_never_ends_in_the_middle_of_a_round(count: int, step: int) -> None:
    """Even where everything has converged and no round is left, the round that began is ended."""
    done = next_step(names(count), Limits(rounds=1), Past(step, {"m0": 0.0}))
    assert isinstance(done, Done) == (step % per_round(count) == 0)
