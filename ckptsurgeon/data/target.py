"""Collects a table's target in parts, and detects whether it contains classes or values.

Until that is known, the distinct texts are kept, and for each row the number of its text. A column with more distinct
fractions than there could be classes contains values, so a regression target of any length takes little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError
from .spool import Spool
from .table import Table

FLOAT32_MAX = float(np.finfo(np.float32).max)
LONGEST_CLASSES = 1 << 24  # total length of all class names, in characters
_FRACTIONS = 1000  # more distinct numbers with a fraction than this are values, even among words
_CLASSES = 1 << 16
_PART = 1 << 14  # values processed at a time


class Target:
    """Collects the target.

    Args:
        name: the column's name, for messages.
        folder: for temporary files (see `Spool`).
        like: a table whose kind of target and classes the result must have.
        classes: whether the target contains classes even if all texts are numbers.
    """

    def __init__(self, name: str, folder: str | None, like: Table | None = None, classes: bool = False) -> None:
        self._name = name
        self._folder = folder
        self._known = None if like is None else like.classes
        self._sure = classes or like is not None
        self._index = {text: number for number, text in enumerate(self._known or ())}
        self._characters = 0
        self._fractions = 0  # distinct texts that are numbers with a fraction
        self._words = False  # whether some text is not a number
        self._odd: RefusedError | None = None  # error for the first text that is not a finite number
        self._values = like is not None and like.classes is None
        self._spool = Spool(np.float32 if self._values else np.int32, folder)

    def add(self, texts: Sequence[str], place: Callable[[int], str]) -> None:
        """Add the texts of some rows; `place` names the n-th of them in errors.

        Raises:
            RefusedError: a text is invalid for this target.
        """
        if not self._values and not self._index.keys() >= set(texts):
            self._learn(texts, place)
        if self._values:
            self._spool.append(self._floats(texts, place))
        else:
            self._spool.append(np.fromiter(map(self._index.__getitem__, texts), np.int32, len(texts)))

    def finish(self) -> tuple[NDArray[Any], tuple[str, ...] | None]:
        """Return class indices, int64, and the classes; or values, float32, and None.

        Raises:
            RefusedError: a value is not finite.
        """
        if not self._sure and not self._values and self._fractions and not self._words:
            self._become_values()
        if self._values:
            return self._spool.array(), None
        classes = self._known or tuple(sorted(self._index))
        places = {text: number for number, text in enumerate(classes)}
        return self._replaced(np.array([places[text] for text in self._index], np.int64)).array(), classes

    def _learn(self, texts: Sequence[str], place: Callable[[int], str]) -> None:
        """Number new texts one by one, so that the result does not depend on how rows are split into parts."""
        for row, text in enumerate(texts):
            if text in self._index:
                continue
            if self._known is not None:
                what = f"{place(row)}, column {self._name!r} contains an unknown class"
                raise RefusedError(what, expected=" or ".join(self._known[:10]), found=repr(text[:40]))
            self._characters += len(text)
            if len(self._index) >= _CLASSES or self._characters > LONGEST_CLASSES:
                what = f"{place(row)}, column {self._name!r} has too many classes"
                raise RefusedError(
                    what, expected=f"at most {_CLASSES}", hint="a target of values needs numbers with a fraction"
                )
            self._index[text] = len(self._index)
            if not self._sure:
                self._judge(text, row, place)
                if self._fractions > _FRACTIONS:
                    self._become_values()
                    return

    def _judge(self, text: str, row: int, place: Callable[[int], str]) -> None:
        number = as_number(text)
        if number is None:
            self._words = True
        elif not number.is_integer():
            self._fractions += 1
        if self._odd is None and not is_value(number):
            self._odd = self._no_value(text, place(row))

    def _become_values(self) -> None:
        if self._odd is not None:
            raise self._odd
        numbers = np.array([as_number(text) for text in self._index], np.float64)
        self._spool = self._replaced(numbers.astype(np.float32))
        self._values = True
        self._index = {}

    def _replaced(self, numbers: NDArray[Any]) -> Spool:
        """Return the collected numbers of texts, each replaced with `numbers[number]`."""
        spool = Spool(numbers.dtype, self._folder)
        for part in parts(self._spool.array()):
            spool.append(numbers[part])
        return spool

    def _floats(self, texts: Sequence[str], place: Callable[[int], str]) -> NDArray[np.float64]:
        try:
            values = np.fromiter(map(float, texts), np.float64, len(texts))
            if not (np.abs(values) <= FLOAT32_MAX).all() or any("_" in text for text in texts):
                raise ValueError
        except ValueError:
            row = next(row for row, text in enumerate(texts) if not is_value(as_number(text)))
            raise self._no_value(texts[row], place(row)) from None
        return values

    def _no_value(self, text: str, place: str) -> RefusedError:
        what = f"{place}, column {self._name!r} is not a finite number"
        return RefusedError(what, found=repr(text[:40]))


def as_number(text: str) -> float | None:
    """Return a text as a number, or None if it is not one; 1_000, which Python accepts, is not."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def is_value(number: float | None) -> bool:
    """Tell whether a number is finite as float32."""
    return number is not None and abs(number) <= FLOAT32_MAX


def parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array in order, in parts that need little memory."""
    rows = max(1, _PART * len(values) // max(1, values.size))
    for start in range(0, len(values), rows):
        yield values[start : start + rows]
