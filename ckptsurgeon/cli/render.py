"""Results on stdout: a table for a terminal, tab-separated lines for a pipe, JSON lines on request."""

from __future__ import annotations

import os
import sys

from ..errors import StorageError, printable
from .streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from ..plan import Report
    from ..verbs.undoing import Undone


def emit(rows: Iterable[Mapping[str, object]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows.

    Args:
        rows: dicts; JSON gives all their keys, in their order.
        columns: the keys that tables and plain lines give.
        as_json: whether `--json` was asked for.
    """
    if as_json:
        import json

        for row in rows:
            print(
                json.dumps(_for_json(row), ensure_ascii=False, allow_nan=False)
                .encode("utf-8", "backslashreplace")
                .decode()
            )
    elif sys.stdout.isatty():
        _table(list(rows), columns)
    else:
        for group in [rows] if isinstance(rows, list) else ([row] for row in rows):
            cells = [_texts([row[name] for row in group]) for name in columns]
            sys.stdout.write("".join([line + "\n" for line in map("\t".join, zip(*cells, strict=True))]))


def _texts(values: list[Any]) -> list[str]:
    """The texts of a column; faster than `text` for columns of one type, which large ones are."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return [value if value.isprintable() else printable(value) for value in values]
    if kinds == {int}:
        return list(map(str, values))
    if kinds == {tuple}:
        shown = {value: text(value) for value in set(values)}
        return [shown[value] for value in values]
    return list(map(text, values))


def text(value: object) -> str:
    """A value as plain output shows it: shapes as [4,10], nothing as -, and no tab or line break of its own."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(text, value)) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value if isinstance(value, str) else str(value))


def readable(name: str) -> str:
    r"""A name with bytes that are not UTF-8 written as \xHH."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _for_json(value: object) -> object:
    """A value that JSON can hold: NaN and infinities as strings, names readable."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return readable(value) if isinstance(value, str) else value


def _table(rows: list[Mapping[str, object]], columns: Sequence[str]) -> None:
    cells = [[text(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    numbers = [all(isinstance(row[column], int | None) for row in rows) for column in columns]
    print(bold(_line(columns, widths, numbers)))
    for line in cells:
        print(_line(line, widths, numbers))


def _line(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(cells, widths, numbers, strict=True)
    )
    return "  ".join(padded).rstrip()


def bold(line: str) -> str:
    """A line in bold on a terminal that wants colour."""
    uncoloured = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return line if uncoloured else f"\x1b[1m{line}\x1b[0m"


def size(count: int) -> str:
    """A number of bytes as a person reads it."""
    amount, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):  # noqa: B007 - the unit at which the loop stops
        if amount < 1000:
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def report(result: Report, dry_run: bool, as_json: bool, quiet: bool = False, verbose: bool = False) -> None:
    """Print what an operation did, or would do."""
    if quiet:
        return
    with after(result.path, dry_run):
        emit(result.rows if verbose else result.changed, ("action", "name", "dtype", "shape", "bytes"), as_json)
        if sys.stdout.isatty() and not as_json:
            written = sum(row["bytes"] for row in result.rows if isinstance(row["bytes"], int))
            done = "would be written; nothing was" if dry_run else "written"
            print(f"{len(result.changed)} variables of {printable(result.path)}; {size(written)} {done}")
    warn(result)


class after:
    """A context manager for what is printed after an operation: a stdout that fails does not hide what was done.

    Args:
        path: the result.
        dry_run: whether nothing was written.

    Raises:
        StorageError: stdout takes nothing.
    """

    def __init__(self, path: str, dry_run: bool) -> None:
        self._done = f"nothing was written to {path}" if dry_run else f"the operation is complete, {path} is written"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                sys.stdout.flush()
            except OSError as refused:
                error = refused
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            what = f"the report cannot be printed: {(error.strerror or '').lower()}"
            raise StorageError(what, path="stdout", hint=self._done) from error
        if error is not None and kind is None:
            raise error


def warn(result: Report | Undone) -> None:
    """Print the warnings of an operation."""
    for warning in result.warnings:
        complain(f"warning: {warning}")
