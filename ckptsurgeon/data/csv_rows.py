"""Tables from csv files, read a few rows at a time.

Each part is converted to numbers column by column. Only if that fails are its fields checked one by one, to locate the
error.
"""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError
from .columns import check_names, check_number
from .spool import Spool
from .table import Table
from .target import Target, as_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _csv import Reader

_ROWS = 512  # rows per part; more are not faster
_FIELDS = 1 << 16  # fields per part, which limits the rows of wide tables
_FEWEST = 16  # rows per part even of the widest tables, since each column has a fixed cost
_LINE = 1 << 26  # characters per line; a longer line is cut, and then refused for its number of fields


def read(path: str, target: str, like: Table | None, folder: str | None, at_once: int = 0) -> Table:
    """Read a csv whose columns other than the target are numeric features, in header order.

    Args:
        path: the file.
        target: the column to predict.
        like: a table whose kind of target and classes the result must have.
        folder: for temporary files (see `Spool`).
        at_once: rows per part; 0 to choose automatically.

    Raises:
        UsageError: there is no such target.
        RefusedError: the file is unusable as training data; names the line and the column.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(iter(functools.partial(file.readline, _LINE), ""))
        columns = _Columns(_header(reader), target, like, folder)
        at_once = at_once or max(_FEWEST, min(_ROWS, _FIELDS // columns.width))
        while True:
            before = reader.line_num
            rows, mistake = _part(reader, at_once, columns.width)
            columns.take(rows, before)
            if mistake is not None:
                raise mistake
            if not rows:
                return columns.table()


class _Columns:
    """Collects the rows of a csv.

    Args:
        header: the first row, which must name the target once.
        target: the column to predict.
        like: a table whose kind of target and classes the result must have.
        folder: for temporary files.

    Attributes:
        width: the number of columns, including the target.
    """

    def __init__(self, header: list[str], target: str, like: Table | None, folder: str | None) -> None:
        self.width = len(header)
        self._column = _target_column(header, target)
        self._header = header
        self._rows = 0
        self._features = Spool(np.float32, folder)
        self._target = Target(target, folder, like)

    def take(self, rows: list[list[str]], before: int) -> None:
        """Take the next rows, of which empty ones do not count; line `before` of the file is the last one above them.

        Raises:
            RefusedError: a row cannot be trained on.
        """
        full = [row for row in rows if row]
        if not full:
            return

        def place(number: int) -> str:
            return f"line {_line(rows, before, number)}"

        try:
            features, texts = self._numbers(full)
        except ValueError:
            number, error = self._mistake(full, place)
            if number:  # what is wrong with the target of an earlier row comes first
                self._target.add([row[self._column].strip() for row in full[:number]], place)
            raise error from None
        self._features.append(features)
        self._target.add(texts, place)
        self._rows += len(full)

    def table(self) -> Table:
        """Return all rows taken so far."""
        if not self._rows:
            raise RefusedError("has no rows below the header")
        y, classes = self._target.finish()
        X = self._features.array().reshape(self._rows, self.width - 1)
        names = tuple(name for number, name in enumerate(self._header) if number != self._column)
        return Table(X, y, classes, names)

    def _numbers(self, rows: list[list[str]]) -> tuple[NDArray[np.float32], Sequence[str]]:
        """Return the features and the target's texts; raise ValueError if anything is wrong."""
        columns = list(zip(*rows, strict=True))
        if len(columns) != self.width:
            raise ValueError
        texts = list(map(str.strip, columns.pop(self._column)))
        features = np.empty((len(rows), len(columns)), np.float32)
        with np.errstate(over="ignore"):
            for number, column in enumerate(columns):
                if "_" in "".join(column):  # float() accepts Python's 1_000
                    raise ValueError
                features[:, number] = np.fromiter(map(float, column), np.float64, len(column))
        if not np.isfinite(features).all() or not all(texts):
            raise ValueError
        return features, texts

    def _mistake(self, rows: list[list[str]], place: Callable[[int], str]) -> tuple[int, RefusedError]:
        """Return the number of the first row that `_numbers` rejects, and the error."""
        for number, row in enumerate(rows):
            try:
                self._check(row, place(number))
            except RefusedError as error:
                return number, error
        raise AssertionError("a part holds no row with a mistake, but was not taken")

    def _check(self, row: list[str], place: str) -> None:
        if len(row) != self.width:
            raise fields_differ(row, self.width, place)
        if not row[self._column].strip():
            hint = "the target must be known in every row"
            raise RefusedError(f"{place}, column {self._header[self._column]!r} is empty", hint=hint)
        for number, text in enumerate(row):
            if number != self._column:
                check_number(text, f"{place}, column {self._header[number]!r}")


def fields_differ(row: list[str], width: int, place: str) -> RefusedError:
    """Return the error for a row with another number of fields than the header."""
    hint = "a quote may not be closed" if any("\n" in text for text in row) else None
    what = f"{place} has a different number of fields than the header"
    return RefusedError(what, expected=width, found=len(row), hint=hint)


def _part(reader: Reader, count: int, width: int | None) -> tuple[list[list[str]], RefusedError | None]:
    """Return at most `count` rows, none at the end of the file, and the error in the row after them.

    A row of another width ends the part: it will be refused, and more of its kind could fill the memory.
    """
    rows: list[list[str]] = []
    try:
        for row in itertools.islice(reader, count):
            rows.append(row)
            if len(row) != width and row:
                break
    except csv.Error as error:
        return rows, RefusedError(f"line {reader.line_num} is not csv: {error}")
    except UnicodeDecodeError:
        return rows, RefusedError("is not UTF-8 text", expected="csv, parquet, npz, npy or a folder of images")
    return rows, None


def _line(rows: list[list[str]], before: int, number: int) -> int:
    """Return the line in which the n-th non-empty row ends."""
    line = before
    for row in rows:
        line += 1
        for text in row:
            line += text.count("\n") + text.count("\r") - text.count("\r\n")  # line breaks inside quotes
        if row:
            if not number:
                break
            number -= 1
    return line


def _header(reader: Reader) -> list[str]:
    """Return the first non-empty row."""
    while True:
        rows, mistake = _part(reader, 1, None)
        if mistake is not None:
            raise mistake
        if not rows:
            raise RefusedError("is empty", expected="a header line with the column names")
        if rows[0]:
            return [name.strip() for name in rows[0]]


def _target_column(names: list[str], target: str) -> int:
    if all(as_number(name) is not None for name in names):
        raise RefusedError("the first line contains numbers", expected="the column names")
    check_names(names, target)
    return names.index(target)
