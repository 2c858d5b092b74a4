"""Mini-batches for `fit` from arrays, memory-mapped arrays or iterators of rows, in skflow's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EstimatorError

Rows = NDArray[np.float32]
Batch = tuple[Rows, Rows]

MAPPED_ROWS = 8192  # rows of a memory-mapped array predicted at a time


def is_stream(X: object) -> bool:
    """Tell whether X is an iterator, which yields its rows only once."""
    return hasattr(X, "__next__")


def is_mapped(X: object) -> bool:
    """Tell whether X is a memory-mapped array, which is read one mini-batch at a time."""
    return isinstance(X, np.memmap)


class ArrayFeeder:
    """Endless mini-batches of an array's rows, in skflow's order.

    Args:
        X: numbers, [rows, features]; converted to float32 one mini-batch at a time.
        target: one entry per row, as `encode` expects.
        batch_size: rows of a mini-batch.
        encode: converts targets of some rows to the network's input.
    """

    def __init__(
        self, X: NDArray[Any], target: NDArray[Any], batch_size: int, encode: Callable[[NDArray[Any]], Rows]
    ) -> None:
        self._X = X
        self._target = target
        self._size = batch_size
        self._encode = encode
        self._taken = 0

    def __iter__(self) -> Iterator[Batch]:
        for rows in shuffled_batches(len(self._X), self._size):
            self._taken += 1
            yield np.asarray(self._X[rows], np.float32), self._encode(self._target[rows])

    def get_feed_params(self) -> dict[str, Any]:
        """Return the number of the epoch, from 0, the next row in it, and the batch size."""
        epoch, batch = divmod(self._taken, -(-len(self._X) // self._size))
        return {"epoch": epoch, "offset": batch * self._size, "batch_size": self._size}


class StreamFeeder:
    """Mini-batches of rows from iterators, until they end; the last one may be short.

    Args:
        X: yields the features of one row, [features], at a time.
        y: yields the row's label, value or values.
        batch_size: rows of a mini-batch.

    Raises:
        EstimatorError: y is not an iterator, or there are no rows.
    """

    def __init__(self, X: Iterator[Any], y: Any, batch_size: int) -> None:
        if not is_stream(y):
            raise EstimatorError("X is an iterator, but y is not", expected="both", found=type(y).__name__)
        self._streams = X, y
        self._size = batch_size
        self._encode: Callable[[NDArray[Any], NDArray[Any]], Batch] | None = None
        self.first = self._take()
        if not len(self.first[0]):
            raise EstimatorError("the iterator X yields no rows")

    def _take(self) -> tuple[NDArray[Any], NDArray[Any]]:
        X, y = (_stacked(name, islice(each, self._size)) for name, each in zip("Xy", self._streams, strict=True))
        if len(X) != len(y):
            raise EstimatorError("one iterator ends before the other", expected=f"{len(X)} more of y", found=len(y))
        return X, y

    def encoded(self, encode: Callable[[NDArray[Any], NDArray[Any]], Batch]) -> StreamFeeder:
        """Set the function that converts rows and targets to the network's input."""
        self._encode = encode
        return self

    def __iter__(self) -> Iterator[Batch]:
        assert self._encode
        X, y = self.first
        while len(X):
            yield self._encode(X, y)
            X, y = self._take()

    def get_feed_params(self) -> dict[str, Any]:
        """Return the batch size, all that is known about a stream."""
        return {"batch_size": self._size}


def parts(X: Any, size: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of an iterator, `size` at a time, or all at once if `size` is below 1."""
    while True:
        rows = _stacked("X", islice(X, size) if size > 0 else X)
        if len(rows):
            yield rows
        if size < 1 or len(rows) < size:
            return


def _stacked(name: str, rows: Any) -> NDArray[Any]:
    found = [np.asarray(row) for row in rows]
    try:
        return np.stack(found) if found else np.empty(0)
    except ValueError:
        shapes = sorted({str(list(row.shape)) for row in found})
        raise EstimatorError(f"the iterator {name} yields rows of different shapes", found=", ".join(shapes)) from None


def shuffled_batches(rows: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of each mini-batch, endlessly, in the order of skflow's DataFeeder.

    A permutation by RandomState(42) is cut into consecutive slices, the last one short; each epoch has a new one.
    """
    order = _first_order(rows)
    random = None
    while True:
        for start in range(0, rows, size):
            yield order[start : start + size]
        if random is None:
            random = np.random.RandomState(42)
            random.permutation(rows)
        order = random.permutation(rows)


@lru_cache
def _first_order_of_few(rows: int) -> NDArray[np.int64]:
    order = np.random.RandomState(42).permutation(rows)
    order.flags.writeable = False
    return order


def _first_order(rows: int) -> NDArray[np.int64]:
    """Return the first permutation; cached for few rows, since seeding the generator takes longer than a step."""
    return _first_order_of_few(rows) if rows <= 1024 else np.random.RandomState(42).permutation(rows)


def one_hot(classes: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Return one-hot rows for class numbers; float32 [rows, n_classes]."""
    rows = np.zeros((len(classes), n_classes), np.float32)
    rows[np.arange(len(classes)), classes] = 1.0
    return rows
