"""Reads the features of the rows to predict, a part at a time, and ignores other columns."""

from __future__ import annotations

import csv
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ... import data
from ...data import images, parquet
from ...data.columns import check_different, check_number
from ...data.csv_rows import fields_differ
from ...errors import RefusedError, UsageError, did_you_mean, files, shape_text

Rows = NDArray[np.float32]

_LINE = 1 << 26  # characters of a line of a csv; a longer one is cut there, and refused for its number of fields
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def read(
    path: str,
    shape: tuple[int, ...],
    names: Sequence[str],
    target: str | None,
    at_once: int,
    warn: Callable[[str], None],
) -> Iterator[Rows]:
    """Read the features of rows.

    Args:
        path: csv with a header line, parquet, .npz with `X`, .npy, or a folder of images; recognised by content.
        shape: the shape of one row.
        names: of the features, where they are known: columns are chosen by them, else by their order.
        target: a column that may be there, and is not wanted.
        at_once: rows of a part.
        warn: is called with a line for the user if columns are not used.

    Yields:
        float32 [at_once or fewer, *shape]; at least one part.

    Raises:
        UsageError: a feature is missing.
        RefusedError: a value is not a finite number; the error names the line and the column.
        DamagedError: the file is not what its first bytes say.
    """
    found = data.kind(path)
    with files(path):
        if found == "array":
            yield from _parts(data.load_npy(path), shape, at_once)
        elif found == "archive":
            arrays = data.load_npz(path)
            if "X" not in arrays:
                hint = did_you_mean("X", arrays) or f"the arrays are {', '.join(arrays) or 'none'}"
                raise UsageError("has no array 'X'", hint=hint)
            yield from _parts(arrays["X"], shape, at_once)
        elif found == "images":
            yield from images.features(path, shape, at_once)
        elif len(shape) > 1:
            raise RefusedError(
                f"a {found} file cannot hold these rows", expected=f"an .npy or .npz of {_wanted(shape)}"
            )
        elif found == "parquet":
            yield from _parquet(path, shape[0], names, target, at_once, warn)
        else:
            yield from _csv(path, shape[0], names, target, at_once, warn)


def _parts(values: NDArray[np.generic], shape: tuple[int, ...], at_once: int) -> Iterator[Rows]:
    if values.dtype.kind not in "fiub" or not values.ndim or values.shape[1:] != shape or not len(values):
        raise RefusedError(
            "does not have the features that the models were trained on",
            expected=_wanted(shape),
            found=f"{values.dtype} {shape_text(*values.shape)}",
        )
    for start in range(0, len(values), at_once):
        with np.errstate(over="ignore"):
            part: Rows = values[start : start + at_once].astype(np.float32)
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            raise RefusedError(f"row {start + int(finite.argmin())} is not finite as float32")
        yield part


def _wanted(shape: tuple[int, ...]) -> str:
    return f"numbers {shape_text('rows', *shape)}"


def _csv(
    path: str, width: int, names: Sequence[str], target: str | None, at_once: int, warn: Callable[[str], None]
) -> Iterator[Rows]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(iter(functools.partial(file.readline, _LINE), ""))
        rows = (row for row in reader if row)
        try:
            header = [name.strip() for name in next(rows, ())]
            columns = _columns(header, width, names, target)
            _tell_unused(path, header, columns, target, warn)
            empty = True
            while texts := [_fields(row, columns, header, reader.line_num) for row in itertools.islice(rows, at_once)]:
                empty = False
                yield np.array(texts, np.float64).astype(np.float32)
        except csv.Error as error:
            raise RefusedError(f"line {reader.line_num} is not csv: {error}") from error
        except UnicodeDecodeError as error:
            raise RefusedError("is not UTF-8 text", expected="csv, parquet, npz, npy or a folder of images") from error
    if empty:
        raise RefusedError("has no rows below the header")


def _columns(header: list[str], width: int, names: Sequence[str], target: str | None) -> list[int]:
    """Return the numbers of the columns that hold the features, in the models' order."""
    if not header:
        raise RefusedError("is empty", expected="a header line with the names of the columns")
    if not names:
        columns = [number for number, name in enumerate(header) if name != target]
        if len(columns) != width:
            what = "does not have the columns that the models were trained on"
            raise UsageError(what, expected=width, found=len(columns))
        return columns
    place = {name: number for number, name in enumerate(header)}
    missing = [name for name in names if name not in place]
    if missing:
        some = f"{len(missing)} columns, such as" if len(missing) > 1 else "column"
        raise UsageError(f"there is no {some} {missing[0]!r}", hint=f"the columns are {', '.join(header)}"[:300])
    wanted = set(names)
    check_different([name for name in header if name in wanted])
    return [place[name] for name in names]


def _parquet(
    path: str, width: int, names: Sequence[str], target: str | None, at_once: int, warn: Callable[[str], None]
) -> Iterator[Rows]:
    header = parquet.names(path)
    columns = _columns(header, width, names, target)
    _tell_unused(path, header, columns, target, warn)
    yield from parquet.features(path, [header[number] for number in columns], at_once)


def _tell_unused(
    path: str, header: list[str], columns: list[int], target: str | None, warn: Callable[[str], None]
) -> None:
    used = set(columns)
    unused = [name for number, name in enumerate(header) if number not in used and name != target]
    if unused:
        warn(f"{path}: ignored columns: {', '.join(unused)}")


def _fields(row: list[str], columns: list[int], header: list[str], line: int) -> list[float]:
    """Return the features of one row."""
    if len(row) != len(header):
        raise fields_differ(row, len(header), f"line {line}")
    try:
        values = [float(row[column]) for column in columns]
        if not all(map(math.isfinite, values)) or max(map(abs, values)) > _FLOAT32_MAX or "_" in "".join(row):
            raise ValueError
    except ValueError:
        for column in columns:
            check_number(row[column], f"line {line}, column {header[column]!r}")
    return values
