"""Measures the distance between the values of two variables, a few at a time. Needs NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import numeric

_BLOCK = 1 << 13  # elements measured at a time, few enough that all temporaries stay in the processor's cache


class Distance:
    """The distance between two variables, in float64.

    Attributes:
        is_equal: whether their bytes are the same.
        max_abs: the largest distance of two elements; NaN where one of two is NaN, 0 where both are.
    """

    def __init__(self) -> None:
        self.is_equal = True
        self.max_abs = 0.0
        self._norm = 0.0
        self._norm_a = 0.0

    @property
    def rel_l2(self) -> float:
        """The norm of the difference, as a share of the norm of the first variable; 0 if there is none."""
        if self._norm == 0:
            return 0.0
        if self._norm_a == 0:
            return math.nan if math.isnan(self._norm) else math.inf
        return self._norm / self._norm_a

    def add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Take some elements of both into account."""
        self.is_equal = self.is_equal and are_equal(x, y)
        with np.errstate(all="ignore"):
            for at in range(0, len(x), _BLOCK):
                self._add(_wide(x[at : at + _BLOCK]), _wide(y[at : at + _BLOCK]))

    def _add(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        if x.dtype.kind in "iu":
            # Exactly, which float64 is not from 2^53 on: the difference of two integers fits the unsigned kind.
            apart = np.where(x > y, x - y, y - x).view(f"u{x.dtype.itemsize}").astype(np.float64)
            x = x.astype(np.float64)
        else:
            apart = np.abs(x - y)
            if not np.isfinite(apart).all():
                alike = (x == y) | (np.isnan(x) & np.isnan(y))  # an infinity, or NaN, in both
                apart[alike] = 0
                x = np.where(alike & ~np.isfinite(x), 0, x)
        top = float(apart.max())
        self.max_abs = top if top > self.max_abs or math.isnan(top) else self.max_abs
        self._norm = _hypot(self._norm, _norm(apart, top))
        sizes = np.abs(x)
        self._norm_a = _hypot(self._norm_a, _norm(sizes, float(sizes.max())))


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers of any kind as float64, complex128 or, exactly, integers."""
    values = numeric.portable(values)
    if values.dtype.kind in "iu":
        return values
    wider = {"b": np.uint8, "c": np.complex128}
    return values.astype(wider.get(values.dtype.kind, np.float64))


def _norm(sizes: NDArray[Any], top: float) -> float:
    """The norm of magnitudes, the largest of which is `top`; scaled, so that no square is too large or small."""
    if top == 0 or not math.isfinite(top):
        return top
    if 1e-100 < top < 1e100:
        return math.sqrt(float((sizes * sizes).sum()))
    scaled = sizes / top
    return top * math.sqrt(float((scaled * scaled).sum()))


def _hypot(one: float, other: float) -> float:
    """As `math.hypot`, but NaN wins over infinity."""
    return math.nan if math.isnan(one) or math.isnan(other) else math.hypot(one, other)


def are_equal(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether two vectors of one dtype hold the same bytes, or the same strings."""
    if x.dtype.kind == "O":
        return bool(x.tolist() == y.tolist())
    return bool((x.view("u1") == y.view("u1")).all())
