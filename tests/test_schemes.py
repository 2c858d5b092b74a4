"""Naming schemes: which names form a layer, what a range means, which slots follow which variable."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon import formats, schemes
from ckptsurgeon.errors import Problems, UsageError


def _open(tmp_path: Path, names: list[str]) -> formats.Bundle:
    formats.write(str(tmp_path / "m"), {name: np.zeros(2, np.float32) for name in names}, sync=False)
    return formats.open(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("pattern", "name", "number"),
    [
        ("dnn/layer{K}/**", "dnn/layer12/Linear/Matrix", 12),
        ("dnn/layer{K}/**", "dnn/layer/Linear/Matrix", None),
        ("dnn/layer{K}/**", "other/dnn/layer1/x", None),
        ("tower/{K}/*", "tower/3/w", 3),
        ("tower/{K}/*", "tower/3/deep/w", None),
        ("dense{_K}/?", "dense/w", 0),
        ("dense{_K}/?", "dense_2/w", 2),
        ("dense{_K}/?", "dense_0/w", None),
        ("a.b[{K}]", "a.b[7]", 7),
        ("a.b[{K}]", "axb[7]", None),
    ],
)
def test_a_pattern_gives_a_layers_number(pattern: str, name: str, number: int | None) -> None:
    """{K} is a number, {_K} an optional one, wildcards keep to their components, all else is literal."""
    assert schemes.Scheme("user's", pattern).number(name) == number


@pytest.mark.parametrize("pattern", ["dnn/layer", "{K}/{K}", "{K}{_K}", "skflo"])
def test_a_pattern_needs_one_number(pattern: str) -> None:
    """A pattern without {K}, with two of them, or a misspelt scheme's name is refused."""
    with pytest.raises(UsageError, match=r"needs \{K\} once"):
        schemes.Scheme(pattern, pattern)


def test_the_scheme_is_found_from_the_names(tmp_path: Path) -> None:
    """Known rows are told by the names; none or several of them is an error that says what to do."""
    with _open(tmp_path, ["dnn/layer0/w", "dnn/layer10/w", "dnn/layer2/w", "head"]) as checkpoint:
        scheme = schemes.find(checkpoint)
        assert scheme.name == "skflow"
        assert list(scheme.layers(checkpoint)) == [0, 2, 10]
    with _open(tmp_path, ["dnn/hiddenlayer_0/weights"]) as checkpoint:
        assert schemes.find(checkpoint).name == "estimator"
    with _open(tmp_path, ["tower/0/w"]) as checkpoint:
        with pytest.raises(UsageError, match=r"fit no known scheme.*tower/0/w.*--scheme"):
            schemes.find(checkpoint)
        assert list(schemes.find(checkpoint, "tower/{K}/**").layers(checkpoint)) == [0]
        with pytest.raises(UsageError, match="no variable fits --scheme skflow"):
            schemes.find(checkpoint, "skflow")
    with (
        _open(tmp_path, ["dnn/layer0/w", "dnn/hiddenlayer_0/weights"]) as checkpoint,
        pytest.raises(UsageError, match="skflow and estimator; choose by --scheme"),
    ):
        schemes.find(checkpoint)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-2", [0, 1, 2]),
        ("1", [1]),
        ("3-", [3, 5, 6]),
        ("-1", [6]),
        ("-2,-1", [5, 6]),
        ("0,5", [0, 5]),
        ("all", [0, 1, 2, 3, 5, 6]),
        ("2-6", [2, 3, 5, 6]),
        (" 1 , 0-1 ", [0, 1]),
    ],
)
def test_a_range_means_layers_inclusively(text: str, numbers: list[int]) -> None:
    """Ranges are inclusive, count from the end with a minus, and may skip numbers that no layer has."""
    assert schemes.parse_layers(text, [0, 1, 2, 3, 5, 6]) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:3", r"did you mean 0-2 \(inclusive\)"),
        ("2:3", r"did you mean 2 \(inclusive\)"),
        ("7", "no layer 7; expected layers 0-3, 5-6"),
        ("4", "no layer 4"),
        ("0-9", "no layer 9"),
        ("5-2", "is empty; did you mean 2-5"),
        ("-7", "no layer -7 from the end"),
        ("-0", "no layer -0 from the end"),
        ("", "'' is no range"),
        ("x", "x is no range"),
        ("1..2", "1..2 is no range"),
    ],
)
def test_a_bad_range_is_explained(text: str, message: str) -> None:
    """A layer that does not exist and a range that is none are errors that show the way."""
    with pytest.raises(UsageError, match=message):
        schemes.parse_layers(text, [0, 1, 2, 3, 5, 6])


def test_all_problems_of_a_range_come_at_once() -> None:
    """Two bad items give two lines."""
    with pytest.raises(Problems) as caught:
        schemes.parse_layers("0:2,9", [0, 1])
    assert len(caught.value.lines) == 2


@given(st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted), st.data())
def test_ranges_select_what_lies_between_their_ends(numbers: list[int], data: st.DataObject) -> None:
    """For any layers, N-M is every layer from N to M, and -N the N-th from the end."""
    first = data.draw(st.sampled_from(numbers))
    last = data.draw(st.sampled_from([number for number in numbers if number >= first]))
    assert schemes.parse_layers(f"{first}-{last}", numbers) == [n for n in numbers if first <= n <= last]
    back = data.draw(st.integers(1, len(numbers)))
    assert schemes.parse_layers(f"-{back}", numbers) == [numbers[-back]]


def test_natural_order_puts_layer2_before_layer10() -> None:
    """Numbers in names compare as numbers."""
    names = ["dnn/layer10/w", "dnn/layer2/w", "b", "dnn/layer2/b", "a10", "a9"]
    assert sorted(names, key=schemes.natural_key) == [
        "a9", "a10", "b", "dnn/layer2/b", "dnn/layer2/w", "dnn/layer10/w",
    ]  # fmt: skip


def test_slots_are_told_by_suffix_and_shape(tmp_path: Path) -> None:
    """A slot has its variable's name and shape; a layer that is merely called Adam is none."""
    arrays = {
        "w": np.zeros((2, 3), np.float32),
        "w/Adam": np.zeros((2, 3), np.float32),
        "w/Adam_1": np.zeros((2, 3), np.float32),
        "w/Momentum": np.zeros(3, np.float32),
        "p/weights": np.zeros(4, np.float32),
        "p/weights/part_0/Ftrl": np.zeros(4, np.float32),
        "p/weights/t_0/Adagrad": np.zeros(4, np.float32),
        "lonely/Adam": np.zeros(1, np.float32),
        "Adam": np.zeros(1, np.float32),
        "o/kernel": np.zeros(2, np.float32),
        "o/kernel/.OPTIMIZER_SLOT/optimizer/m": np.zeros(2, np.float32),
    }
    formats.write(str(tmp_path / "m"), arrays, sync=False)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        assert schemes.slots(checkpoint) == {
            "w/Adam": "w",
            "w/Adam_1": "w",
            "p/weights/part_0/Ftrl": "p/weights",
            "p/weights/t_0/Adagrad": "p/weights",
            "o/kernel/.OPTIMIZER_SLOT/optimizer/m": "o/kernel",
        }


def test_estimator_slots_are_paired(samples: Path) -> None:
    """A real tf.estimator checkpoint: every slot has its variable, through /part_0/."""
    with formats.open(str(samples / "estimator-linear" / "model.ckpt-1")) as checkpoint:
        slots = schemes.slots(checkpoint)
        assert len(slots) == sum("/Ftrl" in name for name in checkpoint)
        assert all(slot.startswith(owner + "/part_0/Ftrl") for slot, owner in slots.items())


def test_skflow_layers_are_counted(tmp_path: Path) -> None:
    """The scheme of skflow finds every layer with its matrix, its bias and their slots."""
    models.write(tmp_path / "m", 1)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        layers = schemes.find(checkpoint).layers(checkpoint)
    assert {number: len(variables) for number, variables in layers.items()} == {0: 4, 1: 4, 2: 4}
