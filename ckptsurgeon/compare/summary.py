"""The statistics of one variable: extremes, mean, spread, and a histogram, over its finite elements. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import numeric

BINS = 20
_CHUNK = 1 << 18  # elements that are held as float64 at a time
_NOTHING = ("min", "max", "mean", "std", "zeros")


def unknown() -> dict[str, Any]:
    """The statistics of variables without numbers, such as strings and variants."""
    return {**dict.fromkeys(_NOTHING), "nan": None, "inf": None, "histogram": None}


def summarize(values: NDArray[Any]) -> dict[str, Any]:
    """The statistics of an array of numbers.

    Args:
        values: of any numeric dtype, those of ml_dtypes too; false counts as 0 and true as 1, and a complex number as
            its magnitude.

    Returns:
        `min`, `max` (of integers exactly), `mean`, `std` (of the population), `zeros` (a share) and `histogram` (edges
        and counts of equally wide bins), all over the finite elements and None without any; `nan` and `inf` are
        counts. Sums are float64.
    """
    flat = numeric.portable(values).reshape(-1)
    count = zeros = nan = inf = 0
    low, high = np.inf, -np.inf
    for part in _parts(flat):
        finite = part[np.isfinite(part)]
        missing = int(np.isnan(part).sum())
        nan += missing
        inf += part.size - finite.size - missing
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            count += finite.size
            zeros += int((finite == 0).sum())
    result = {**unknown(), "nan": nan, "inf": inf}
    if not count:
        return result
    exact = flat.dtype.kind in "iu"
    result["min"], result["max"] = (int(flat.min()), int(flat.max())) if exact else (low, high)
    result["zeros"] = zeros / count
    return result | _spread(flat, count, low, high)


def _parts(flat: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """An array as float64, a piece at a time; complex numbers by their magnitude."""
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        with np.errstate(all="ignore"):
            yield np.abs(part.astype(np.complex128)) if part.dtype.kind == "c" else part.astype(np.float64)


def _spread(flat: NDArray[Any], count: int, low: float, high: float) -> dict[str, Any]:
    """Mean, standard deviation and histogram of the finite elements, which lie between `low` and `high`."""
    widest = max(abs(low), abs(high))
    scale = widest if widest and not 1e-100 < widest < 1e100 else 1.0  # so that no square leaves float64's range
    low, high = low / scale, high / scale
    edges = np.linspace(low, high, BINS + 1)
    one_bin = not (np.diff(edges) > 0).all()
    counts = np.zeros(1 if one_bin else BINS, np.int64)
    total = 0.0
    for part in _parts(flat):
        finite = part[np.isfinite(part)] / scale
        total += float(finite.sum())
        if one_bin:
            counts += finite.size
        else:
            counts += np.histogram(finite, BINS, (low, high))[0]
    mean = min(max(total / count, low), high)  # rounding may leave the range
    squares = 0.0
    for part in _parts(flat):
        squares += float(np.square(part[np.isfinite(part)] / scale - mean).sum())
    shown = np.asarray([low, high]) if one_bin else edges
    return {
        "mean": mean * scale,
        "std": float(np.sqrt(squares / count)) * scale,
        "histogram": {"edges": (shown * scale).tolist(), "counts": counts.tolist()},
    }
