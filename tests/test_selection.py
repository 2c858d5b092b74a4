"""Selections: globs, exact names, excludes, and what selects nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import Problems, UsageError
from ckptsurgeon.surgeon.selection import Selection

NAMES = [
    "dnn/layer0/Linear/Bias",
    "dnn/layer0/Linear/Matrix",
    "dnn/layer10/Linear/Bias",
    "dnn/layer2/Linear/Bias",
    "odd[*]name",
    "oddXname",
    "global_step",
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[formats.Bundle]:
    """A checkpoint with NAMES."""
    formats.write(str(tmp_path / "m"), {name: np.zeros(1, np.float32) for name in NAMES}, sync=False)
    with formats.open(str(tmp_path / "m")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["dnn/layer0/Linear/Bias", "dnn/layer0/Linear/Matrix", "dnn/layer2/Linear/Bias",
              "dnn/layer10/Linear/Bias", "global_step", "oddXname", "odd[*]name"]),
        ({"match": ["dnn/layer?/*/Bias"]}, ["dnn/layer0/Linear/Bias", "dnn/layer2/Linear/Bias"]),
        ({"match": ["**/Matrix", "global_step:0"]}, ["dnn/layer0/Linear/Matrix", "global_step"]),
        ({"match": ["odd[*]name"]}, ["odd[*]name"]),
        ({"match": ["odd*"]}, ["oddXname", "odd[*]name"]),
        ({"layers": "0", "match": ["global_step"]},
         ["dnn/layer0/Linear/Bias", "dnn/layer0/Linear/Matrix", "global_step"]),
        ({"layers": "all", "exclude": ["**/Bias"]}, ["dnn/layer0/Linear/Matrix"]),
        ({"layers": "0", "scheme": "dnn/layer{K}/Linear/Bias"}, ["dnn/layer0/Linear/Bias"]),
    ],
)  # fmt: skip
def test_a_selection_selects(checkpoint: formats.Bundle, options: dict[str, object], names: list[str]) -> None:
    """Layers and globs add up, excludes take away, an exact name wins over a glob; the order is natural."""
    found = [variable.name for variable in Selection(**options).variables(checkpoint)]  # type: ignore[arg-type]
    assert found == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": ["dnn/*"]}, r"nothing matches dnn/\*; \* stays within a path component, \*\* crosses /"),
        ({"match": ["global_stp"]}, "nothing matches global_stp; did you mean global_step"),
        ({"match": ["dnn/**"], "exclude": ["head/**"]}, r"--exclude head/\*\* matches nothing in the selection"),
        ({"match": ["global_step"], "exclude": ["global_step"]}, "--exclude removes the whole selection"),
        ({"layers": "7"}, "no layer 7; expected layers 0, 2, 10"),
    ],
)
def test_what_selects_nothing_is_an_error(checkpoint: formats.Bundle, options: dict[str, object], message: str) -> None:
    """A pattern or a range that selects nothing is never passed over."""
    with pytest.raises(UsageError, match=message):
        Selection(**options).variables(checkpoint)  # type: ignore[arg-type]


def test_all_problems_come_at_once(checkpoint: formats.Bundle) -> None:
    """Two patterns and a range that select nothing give three lines."""
    with pytest.raises(Problems) as caught:
        Selection(layers="99", match=["nope", "neither"]).variables(checkpoint)
    assert len(caught.value.lines) == 3
