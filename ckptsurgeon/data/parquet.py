"""Tables from parquet files, read a few rows at a time with pyarrow (the extra `data`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CkptSurgeonError, DamagedError, RefusedError, UnsupportedError, one_line
from .columns import TEXT_HINT, check_names
from .spool import Spool
from .table import Table
from .target import LONGEST_CLASSES, Target

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS = 4096  # rows per part
_BYTES = 4 * LONGEST_CLASSES  # of the different texts of a part, in UTF-8
_MEAN = 256  # bytes per text, in a row group of so many that they exceed the above without a dictionary


def read(path: str, target: str, like: Table | None, folder: str | None) -> Table:
    """Read a parquet file whose columns other than the target are numeric features, in the order of its schema.

    A target of integers, text or booleans contains classes, one of fractions values.

    Args:
        path: the file.
        target: the column to predict.
        like: a table whose kind of target and classes the result must have.
        folder: for temporary files (see `Spool`).

    Raises:
        UsageError: there is no such target.
        RefusedError: the file is unusable as training data; names the row, counted from 0, and the column.
        DamagedError: it is not a readable parquet file.
        UnsupportedError: pyarrow is not installed.
    """
    with _opened(path) as file:
        names = list(file.schema_arrow.names)
        check_names(names, target)
        features = [name for name in names if name != target]
        _check_types(file.schema_arrow, features)
        kind = _kind_of_target(file.schema_arrow, target)
        if like is None and _is_fraction(kind):
            like = Table(np.zeros((0, 0), np.float32), np.zeros(0, np.float32), None)
        if _is_text(kind):
            _check_lengths(file, target)
    with _opened(path, [target] if _is_text(kind) else None) as file:
        X, rows = Spool(np.float32, folder), 0
        y = Target(target, folder, like, classes=True)
        for batch in file.iter_batches(_ROWS):
            X.append(_numbers(batch, features, rows))

            def place(number: int, start: int = rows) -> str:
                return f"row {start + number}"

            values = _values(batch.column(target), target)
            if None in values:
                raise RefusedError(f"row {rows + values.index(None)}, column {target!r} is empty")
            y.add(list(map(str, values)), place)
            rows += len(batch)
        if not rows:
            raise RefusedError("has no rows")
        found, classes = y.finish()
        return Table(X.array().reshape(rows, len(features)), found, classes, tuple(features))


def names(path: str) -> list[str]:
    """Return the names of the columns."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def features(path: str, columns: Sequence[str], at_once: int) -> Iterator[NDArray[np.float32]]:
    """Yield some columns, float32 [at_once or fewer, columns], in the given order; at least one part.

    Raises:
        RefusedError: a value is not a finite number, or there are no rows.
    """
    with _opened(path) as file:
        _check_types(file.schema_arrow, columns)
        rows = 0
        for batch in file.iter_batches(at_once, columns=list(columns)):
            yield _numbers(batch, columns, rows)
            rows += len(batch)
        if not rows:
            raise RefusedError("has no rows")


@contextlib.contextmanager
def _opened(path: str, dictionaries: list[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file; `dictionaries` are columns of text of which only the distinct values are to be in memory."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UnsupportedError("reading parquet needs pyarrow", hint="pip install 'ckptsurgeon[data]'") from error
    try:
        with pq.ParquetFile(path, read_dictionary=dictionaries) as file:
            yield file
    except CkptSurgeonError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the operating system
            raise
        raise DamagedError(f"not a readable parquet file: {one_line(error, 200)}") from error


def _check_types(schema: pa.Schema, columns: Sequence[str]) -> None:
    """Refuse columns that do not hold numbers, all in one line."""
    import pyarrow.types as types

    kinds = {name: schema.field(name).type for name in columns}
    odd = [name for name, kind in kinds.items() if not (types.is_integer(kind) or types.is_boolean(kind))]
    odd = [name for name in odd if not (types.is_floating(kinds[name]) or types.is_decimal(kinds[name]))]
    if odd:
        some = f"column {odd[0]!r} is" if len(odd) == 1 else f"columns {', '.join(map(repr, odd))} are"
        raise RefusedError(f"{some} not numeric", found=str(kinds[odd[0]]), hint=TEXT_HINT)


def _kind_of_target(schema: pa.Schema, target: str) -> pa.DataType:
    """Return the type of the target's values, for a dictionary that of its values; refuse one without a clear text."""
    import pyarrow.types as types

    kind = schema.field(target).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_boolean(kind) or _is_text(kind) or _is_fraction(kind)):
        raise RefusedError(
            f"column {target!r} cannot be the target",
            expected="integers, booleans, text, floats or decimals",
            found=str(kind),
            hint="convert it to text for classes, or to floats for values",
        )
    return kind


def _check_lengths(file: pq.ParquetFile, target: str) -> None:
    """Refuse texts too long for classes by the sizes that the file tells, before any are unpacked."""
    place = file.schema_arrow.get_field_index(target)  # features are numbers, so each column is one of the file's
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.column(place).total_uncompressed_size > _BYTES + _MEAN * group.num_rows:
            raise _too_long(target)


def _too_long(target: str) -> RefusedError:
    what = f"column {target!r} has texts that are too long for classes"
    return RefusedError(what, expected=f"at most {LONGEST_CLASSES} characters in all different ones")


def _is_fraction(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_floating(kind) or types.is_decimal(kind))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _values(column: pa.Array, name: str) -> list[Any]:
    """Return the values of a column, None where one is missing; rows share the values of a dictionary."""
    import pyarrow.types as types

    if not types.is_dictionary(column.type):
        return list(column.to_pylist())
    numbers = column.indices.unique()
    values = column.dictionary.take(numbers)
    if values.nbytes > _BYTES:
        raise _too_long(name)
    found = dict(zip(numbers.to_pylist(), values.to_pylist(), strict=True))
    return [found[number] for number in column.indices.to_pylist()]


def _numbers(batch: pa.RecordBatch, columns: Sequence[str], start: int) -> NDArray[np.float32]:
    """Return columns as float32 [rows, columns]; refuse values that are missing or not finite."""
    import pyarrow as pa

    X = np.empty((len(batch), len(columns)), np.float32)
    for number, name in enumerate(columns):
        column = batch.column(name)
        if column.null_count:
            row = start + column.is_null().to_pylist().index(True)
            raise RefusedError(f"row {row}, column {name!r} is empty", hint="fill it in, or remove the row")
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            X[:, number] = values
        if not np.isfinite(X[:, number]).all():
            row = int(np.isfinite(X[:, number]).argmin())
            raise RefusedError(f"row {start + row}, column {name!r} is not finite as float32", found=values[row])
    return X
