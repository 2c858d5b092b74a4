"""The statistics of one variable, against NumPy's own and where NumPy's naive ones fail."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon.compare import summary


@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, np.nan, np.inf, -np.inf]), min_size=1))
def test_statistics_are_those_of_the_finite_elements(numbers: list[float]) -> None:
    """Whatever the values, extremes, mean, spread and shares are those of the finite ones; bins hold each once."""
    values = np.asarray(numbers, np.float32)
    finite = values[np.isfinite(values)].astype(np.float64)
    result = summary.summarize(values)
    assert (result["nan"], result["inf"]) == (np.isnan(values).sum(), np.isinf(values).sum())
    if not finite.size:
        assert [result[key] for key in ("min", "max", "mean", "std", "zeros", "histogram")] == [None] * 6
        return
    assert (result["min"], result["max"]) == (finite.min(), finite.max())
    assert result["mean"] == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9)
    assert result["std"] == pytest.approx(finite.std(), rel=1e-6, abs=1e-6)
    assert result["zeros"] == (finite == 0).mean()
    assert sum(result["histogram"]["counts"]) == finite.size
    assert len(result["histogram"]["edges"]) == len(result["histogram"]["counts"]) + 1


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"])
def test_small_dtypes_are_counted(kind: str) -> None:
    """The dtypes of ml_dtypes give the numbers that they stand for."""
    result = summary.summarize(np.asarray([0, 1, 2, 5], getattr(ml_dtypes, kind)))
    assert (result["min"], result["max"], result["mean"], result["zeros"]) == (0, 5, 2, 0.25)


def test_bools_integers_and_complex_numbers() -> None:
    """Bools count as 0 and 1, large integers keep every digit, complex numbers count by magnitude."""
    assert summary.summarize(np.asarray([True, False]))["mean"] == 0.5
    large = np.asarray([-(2**63), 2**63 - 1], np.int64)
    assert [summary.summarize(large)[key] for key in ("min", "max")] == large.tolist()
    result = summary.summarize(np.asarray([3 + 4j, 0, complex(np.nan, 0)], np.complex64))
    assert [result[key] for key in ("min", "max", "mean", "nan")] == [0, 5, 2.5, 1]


@pytest.mark.parametrize("widest", [1.7e308, 1e-300, 1e200])
def test_no_sum_leaves_the_range_of_float64(widest: float) -> None:
    """Values at the ends of float64's range have a finite mean and spread."""
    result = summary.summarize(np.asarray([-widest, widest, widest]))
    assert result["mean"] == pytest.approx(widest / 3)
    assert result["std"] == pytest.approx(widest * (np.sqrt(8) / 3))


def test_one_value_and_none() -> None:
    """A constant has one bin and no spread; an empty variable has nothing."""
    result = summary.summarize(np.full((), 1e30, np.float32))
    assert result["std"] == 0
    assert result["histogram"]["counts"] == [1]
    assert summary.summarize(np.zeros((0, 3))) == {**summary.unknown(), "nan": 0, "inf": 0}


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is summed in pieces gives the same as one that is not."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    whole = summary.summarize(values)
    monkeypatch.setattr(summary, "_CHUNK", 7)
    parts = summary.summarize(values)
    assert parts["histogram"] == whole["histogram"]
    assert (parts["mean"], parts["std"]) == pytest.approx((whole["mean"], whole["std"]))
