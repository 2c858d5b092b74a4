"""Block means: checked against a computation over all rounds at once, with interruptions at any point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.ring.schedule import TRUNK
from ckptsurgeon.ring.spec.records import Model, Spec
from ckptsurgeon.ring.weights.convergence import Blocks, Weights
from ckptsurgeon.ring.weights.trunk import Trunk

MODELS = ("a", "b")


def rounds(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    sizes = {"a": 3, "b": 5, TRUNK: 4}
    return [{name: random.normal(size=size) for name, size in sizes.items()} for _ in range(count)]


def expected(vectors: list[dict[str, np.ndarray]], window: int) -> dict[int, dict[str, float]]:
    """Return the changes by the number of the round, from the definition of convergence."""
    changes = {}
    for end in range(2 * window, len(vectors) + 1, window):
        changes[end] = {}
        for name in (*MODELS, TRUNK):
            parts = [name] if name == TRUNK else [name, TRUNK]  # a model is its trunk and the rest of it
            whole = [np.concatenate([v[part] for part in parts]) for v in vectors]
            before = np.mean(whole[end - 2 * window : end - window], axis=0)
            now = np.mean(whole[end - window : end], axis=0)
            changes[end][name] = np.linalg.norm(now - before) / np.linalg.norm(before)
    return changes


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_changes_are_those_of_the_means_of_blocks(window: int) -> None:
    """Measured at the end of every block but the first, and never in between."""
    vectors, blocks = rounds(22), Blocks(MODELS, window)
    found = {number: blocks.add(number, vector) for number, vector in enumerate(vectors, start=1)}
    wanted = expected(vectors, window)
    assert {number for number, change in found.items() if change is not None} == set(wanted)
    for number, change in wanted.items():
        assert found[number] == pytest.approx(change)


@pytest.mark.parametrize("window", [1, 3, 4])
def test_a_state_that_was_saved_goes_on_to_the_last_bit(tmp_path: Path, window: int) -> None:
    """Written after every round, under one of two names, and read back each time: nothing is lost or rounded."""
    vectors, whole, resumed = rounds(13), Blocks(MODELS, window), Blocks(MODELS, window)
    for number, vector in enumerate(vectors, start=1):
        path = str(tmp_path / f"blocks-{number % 2}.npz")
        assert resumed.add(number, vector) == whole.add(number, vector)
        resumed.save(path, number, sync=False)
        resumed = Blocks.load(path, MODELS, window, number)
        whole.save(str(tmp_path / "other.npz"), number, sync=False)
        assert (tmp_path / "other.npz").read_bytes() == Path(path).read_bytes()


def test_the_state_of_another_round_is_refused(tmp_path: Path) -> None:
    """So is a missing or a damaged one; before the first round there is none."""
    path = tmp_path / "blocks-1.npz"
    Blocks(MODELS, 2).save(str(path), 3, sync=False)
    with pytest.raises(CkptSurgeonError, match="expected 5, found"):
        Blocks.load(str(path), MODELS, 2, 5)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CkptSurgeonError):
        Blocks.load(str(path), MODELS, 2, 3)
    path.unlink()
    with pytest.raises(CkptSurgeonError):
        Blocks.load(str(path), MODELS, 2, 3)
    assert Blocks.load(str(path), MODELS, 2, 0).add(1, rounds(1)[0]) is None


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 20))
def test_after_another_window_only_whole_blocks_are_compared(before: int, after: int, at: int) -> None:
    """A window that changes in the middle of a block makes the measuring begin anew."""
    vectors = rounds(40)
    blocks = Blocks(MODELS, before)
    for number in range(1, at + 1):
        blocks.add(number, vectors[number - 1])
    anew = Blocks(MODELS, after)
    found = {number: anew.add(number, vectors[number - 1]) for number in range(at + 1, 41)}
    first = -(-at // after) * after + 2 * after  # two whole blocks behind the change
    wanted = {number: change for number, change in expected(vectors, after).items() if number >= first}
    assert {number for number, change in found.items() if change is not None} == set(wanted)
    for number, change in wanted.items():
        assert found[number] == pytest.approx(change)


def test_another_window_begins_anew(tmp_path: Path) -> None:
    """The saved sums are those of other blocks."""
    path = str(tmp_path / "blocks-0.npz")
    vectors, blocks = rounds(8), Blocks(MODELS, 2)
    for number in (1, 2, 3, 4):
        blocks.add(number, vectors[number - 1])
    blocks.save(path, 4, sync=False)
    loaded = Blocks.load(path, MODELS, 4, 4)
    assert [loaded.add(number, vectors[number - 1]) for number in (5, 6, 7, 8)] == [None] * 4


@pytest.mark.parametrize(
    ("before", "now", "change"), [(0.0, 0.0, 0.0), (0.0, 1.0, float("inf")), (2.0, 2.0, 0.0), (2.0, 3.0, 0.5)]
)
def test_weights_that_are_all_zero_are_no_division_by_zero(before: float, now: float, change: float) -> None:
    """They have moved infinitely far, or not at all."""
    blocks, none = Blocks(["a"], 1), np.zeros(0)
    assert blocks.add(1, {"a": np.array([before]), TRUNK: none}) is None
    assert blocks.add(2, {"a": np.array([now]), TRUNK: none}) == {"a": change, TRUNK: 0.0}


def test_weights_are_float_variables_with_an_axis_that_are_no_slots(tmp_path: Path) -> None:
    """Neither a learning rate, nor a step counter, nor an optimizer's memory; in the order of their names."""
    import ml_dtypes

    values = {
        "dnn/layer1/Linear/Matrix": np.array([[5, 6]], np.float32),
        "dnn/layer0/Linear/Matrix": np.array([[4]], np.float32),
        "dnn/layer0/Linear/Bias": np.array([1], np.float64),
        "dnn/layer0/Linear/Bias/Adagrad": np.array([7], np.float64),
        "half": np.array([3], np.float16),
        "also_half": np.array([0.5], ml_dtypes.bfloat16),
        "learning_rate": np.float32(0.1),
        "global_step": np.array([9], np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }
    paths = {}
    for name, more in (("a", {}), ("b", {"half": np.array([8], np.float16)})):
        paths[name] = str(tmp_path / name)
        formats.write(paths[name], {key: np.asarray(value) for key, value in {**values, **more}.items()})
    models = tuple(Model(name, hidden_units=(1, 2)) for name in paths)
    weights = Weights(Trunk(Spec("0", models), paths))
    for _ in range(2):
        found = weights.read(paths)
        assert {vector.dtype for vector in found.values()} == {np.dtype(np.float64)}
        assert {name: vector.tolist() for name, vector in found.items()} == {
            TRUNK: [1, 4],
            "a": [0.5, 5, 6, 3],
            "b": [0.5, 5, 6, 8],
        }
