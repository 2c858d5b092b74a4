"""Rows to train on: read from csv, npz or npy, cut into mini-batches, handed on as small .npz files.

Everything random here is a keyed function of (seed, position), never the state of a running generator, so
that batch b holds the same rows whoever asks for it and whenever. NumPy only; nothing is ever unpickled.
"""

from __future__ import annotations

import array
import csv
import io
import math
import os
import zipfile
from dataclasses import dataclass
from hashlib import blake2b
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import CkptSurgeonError, DamagedError, RefusedError, UsageError, did_you_mean, files
from .publish import write_file

# Deflate cannot shrink data further than this (RFC 1951: a match of 258 bytes in 2 bits): a larger claim is a
# lie.
_MAX_INFLATION = 1032
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """Rows with a target.

    Attributes:
        X: the features, float32 [rows, features]; a read-only memory map where the file allows it.
        y: class indices, int64 [rows], or values, float32 [rows] or [rows, outputs].
        classes: the names of the classes, sorted as text; None for a regression target.
        features: the names of the features; empty where the file holds none.
    """

    X: NDArray[np.float32]
    y: NDArray[Any]
    classes: tuple[str, ...] | None
    features: tuple[str, ...] = ()


def read(path: str, target: str | None = None, like: Table | None = None) -> Table:
    """Read a table; the container is recognised by content.

    Args:
        path: csv with a header line, .npz, or .npy with the features alone.
        target: the column to predict (csv); the name of its array (npz; 'y' unless told otherwise, the
            features are 'X'); the path of its own .npy (npy).
        like: the table that a model was trained on: its kind of target and its classes are kept.

    Raises:
        UsageError: no such target.
        RefusedError: the file is sound, but cannot be trained on; the line and the column are named.
        DamagedError: the file is not what its first bytes say.
    """
    with files(path):
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            if target is None:
                raise UsageError("holds the features alone", hint="name the .npy file of the target")
            return _table(load_npy(path), load_npy(target), None, like)
        if magic[:4] == b"PK\x03\x04":
            arrays = load_npz(path)
            for name in ("X", target or "y"):
                if name not in arrays:
                    hint = did_you_mean(name, arrays) or f"the arrays are {', '.join(arrays) or 'none'}"
                    raise UsageError(f"there is no array {name!r}", hint=hint)
            return _table(arrays["X"], arrays[target or "y"], target, like)
        if target is None:
            raise UsageError("no target is named", hint="name the column to predict")
        return _read_csv(path, target, like)


def load_npy(path: str) -> NDArray[Any]:
    """Map a .npy file into memory, read-only; an array of Python objects is refused."""
    with files(path):
        try:
            if os.path.getsize(path) < 10:  # NumPy's own words for a file this short mislead
                raise ValueError("the file is truncated")
            loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy raises ValueError, TokenError, TypeError, … for damaged headers
            raise DamagedError(f"not a readable .npy file: {_one_line(error)}") from error
        return loaded


def load_npz(path: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file; no claimed size is believed unless the file's own size allows it."""
    with files(path):
        try:
            limit = os.path.getsize(path) * _MAX_INFLATION
            arrays = {}
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(".npy"):
                        if member.file_size > limit:
                            raise ValueError(f"{member.filename} claims {member.file_size} bytes")
                        with archive.open(member) as stream:
                            arrays[member.filename[:-4]] = _read_array(stream, member.file_size)
        except OSError:
            raise
        except Exception as error:  # zipfile and NumPy raise a dozen kinds for damaged files
            raise DamagedError(f"not a readable .npz file: {_one_line(error)}") from error
        return arrays


def write_batch(path: str, X: NDArray[np.float32], y: NDArray[Any], sync: bool = False) -> None:
    """Write the .npz of one batch, atomically and with the same bytes for the same rows."""
    buffer = io.BytesIO()
    np.savez(buffer, X=X, y=y)
    write_file(path, buffer.getvalue(), sync=sync)


class Batches:
    """Which rows form batch b: a pure function of (seed, b), in constant memory.

    Each epoch is a keyed permutation of the rows that are not held out, cut into consecutive slices; the last
    slice of an epoch is short. The held-out rows are the first ones of a permutation of their own.

    Attributes:
        per_epoch: batches in an epoch.

    Args:
        rows: rows of the table.
        batch_size: rows of a batch.
        seed: any integer.
        holdout: the share of the rows that no batch ever holds; at least one row if it is not 0.

    Raises:
        UsageError: a number that makes no sense, or no row is left to train on.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, holdout: float = 0.0) -> None:
        if rows < 1 or batch_size < 1 or not 0 <= holdout < 1:
            raise UsageError(
                "cannot cut batches",
                expected="rows and batch_size of 1 or more, holdout from 0 up to, not including, 1",
                found=f"rows {rows}, batch_size {batch_size}, holdout {holdout}",
            )
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._held = max(1, round(rows * holdout)) if holdout else 0
        self._train = rows - self._held
        if self._train < 1:
            raise UsageError(f"holding out {holdout} of {rows} rows leaves none to train on")
        self.per_epoch = -(-self._train // batch_size)

    def rows(self, batch: int) -> NDArray[np.int64]:
        """Return the row numbers of a batch, counted from 0 over all epochs; int64 [batch_size or fewer]."""
        epoch, number = divmod(batch, self.per_epoch)
        start = number * self._batch_size
        stop = min(start + self._batch_size, self._train)
        shuffled = permute(np.arange(start, stop), self._train, f"{self._seed}/{epoch}")
        return permute(shuffled + self._held, self._rows, f"{self._seed}/holdout") if self._held else shuffled

    def held_out(self) -> NDArray[np.int64]:
        """Return the row numbers that no batch holds, ascending; int64 [held-out rows]."""
        return np.sort(permute(np.arange(self._held), self._rows, f"{self._seed}/holdout"))


def permute(positions: NDArray[np.int64], n: int, key: str) -> NDArray[np.int64]:
    """Return where a permutation of 0 … n-1, chosen by `key`, sends the given positions.

    A Feistel network permutes the numbers of `(n-1).bit_length()` bits; a result beyond n is sent through it
    again until it lies within (cycle walking, fewer than 2 passes on average). So no table of size n is
    needed.
    """
    bits = (n - 1).bit_length()
    low = np.uint64(bits - bits // 2)
    high_mask = np.uint64((1 << (bits // 2)) - 1)
    low_mask = np.uint64((1 << int(low)) - 1)
    keys = np.frombuffer(blake2b(key.encode()).digest(), dtype="<u8").astype(np.uint64)

    def network(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, rest = numbers >> low, numbers & low_mask
        for even, odd in zip(keys[0::2], keys[1::2], strict=True):
            high = high ^ (_mix(rest ^ even) & high_mask)
            rest = rest ^ (_mix(high ^ odd) & low_mask)
        joined: NDArray[np.uint64] = (high << low) | rest
        return joined

    result = network(np.asarray(positions).astype(np.uint64))
    while (outside := np.flatnonzero(result >= n)).size:
        result[outside] = network(result[outside])
    return result.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply splitmix64's finaliser (Steele, Lea, Flood 2014): each output bit depends on each input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _read_csv(path: str, target: str, like: Table | None) -> Table:
    """Read a csv whose columns, but for the target, are numeric features in the order of the header."""
    values, lines, texts = array.array("d"), array.array("q"), []
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next((row for row in rows if row), None)
            if header is None:
                raise RefusedError("is empty", expected="a header line with the names of the columns")
            column = _target_column(header, target)
            for row in rows:
                if not row:
                    continue
                where = f"line {rows.line_num}"
                if len(row) != len(header):
                    raise RefusedError(
                        f"{where} has another number of fields than the header",
                        expected=len(header),
                        found=len(row),
                    )
                texts.append(row.pop(column).strip())
                if not texts[-1]:
                    raise RefusedError(f"{where}, column {target!r} is empty")
                try:
                    if "_" in "".join(row):  # float() takes Python's 1_000
                        raise ValueError
                    values.extend(map(float, row))
                except ValueError:
                    raise _not_a_number(where, header, column, row) from None
                lines.append(rows.line_num)
        except csv.Error as error:
            raise RefusedError(f"line {rows.line_num} is not csv: {error}") from error
        except UnicodeDecodeError as error:
            raise RefusedError("is not UTF-8 text", hint="expected csv, npz or npy") from error
    names = [name for number, name in enumerate(header) if number != column]
    if not texts:
        raise RefusedError("holds no rows below the header")
    with np.errstate(over="ignore"):
        X = np.frombuffer(values, dtype=np.float64).astype(np.float32).reshape(len(texts), len(names))
    wrong = np.argwhere(~np.isfinite(X))
    if len(wrong):
        row_number, number = (int(i) for i in wrong[0])
        raise RefusedError(
            f"line {lines[row_number]}, column {names[number]!r} is not finite in float32",
            found=values[row_number * len(names) + number],
        )
    places = [f"line {line}" for line in lines]
    numeric = all(map(_is_number, texts))
    regression = numeric and not all(value.is_integer() for value in map(float, texts))
    if regression if like is None else like.classes is None:
        return Table(X, _values(texts, places, target), None, tuple(names))
    y, classes = _indices(texts, places, target, None if like is None else like.classes)
    return Table(X, y, classes, tuple(names))


def _target_column(header: list[str], target: str) -> int:
    names = [name.strip() for name in header]
    header[:] = names
    if all(_is_number(name) for name in names):
        raise RefusedError("the first line holds numbers", expected="the names of the columns")
    if names.count(target) != 1:
        if target in names:
            raise RefusedError(f"two columns are named {target!r}")
        hint = did_you_mean(target, names) or f"the columns are {', '.join(names)}"
        raise UsageError(f"there is no column {target!r}", hint=hint)
    if len(names) < 2:
        raise RefusedError(f"there is no column beside the target {target!r}")
    return names.index(target)


def _not_a_number(where: str, header: list[str], column: int, row: list[str]) -> CkptSurgeonError:
    names = [name for number, name in enumerate(header) if number != column]
    name, text = next((n, t) for n, t in zip(names, row, strict=True) if not _is_number(t))
    return RefusedError(f"{where}, column {name!r} is not a number", found=repr(text[:40]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _values(texts: list[str], places: list[str], target: str) -> NDArray[np.float32]:
    for place, text in zip(places, texts, strict=True):
        if not _is_number(text) or not abs(float(text)) <= _FLOAT32_MAX:  # false for NaN too
            raise RefusedError(f"{place}, column {target!r} is not a finite number", found=repr(text[:40]))
    return np.array([float(text) for text in texts], dtype=np.float64).astype(np.float32)


def _indices(
    texts: list[str], places: list[str], target: str, known: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices, and the classes: `known` ones, or those of the texts, sorted as text."""
    classes = known if known is not None else tuple(sorted(set(texts)))
    index = {name: number for number, name in enumerate(classes)}
    for place, text in zip(places, texts, strict=True):
        if text not in index:
            what = f"{place}, column {target!r} holds an unknown class"
            raise RefusedError(what, expected=" or ".join(classes[:10]), found=repr(text[:40]))
    return np.array([index[text] for text in texts], dtype=np.int64), classes


def _table(X: NDArray[Any], y: NDArray[Any], target: str | None, like: Table | None) -> Table:
    """Make a table of two arrays; y of integers, text or truth values holds classes, y of floats values."""
    if X.ndim != 2 or X.dtype.kind not in "fiub" or 0 in X.shape:
        raise RefusedError("the features cannot be used", expected="numbers [rows, features]", found=_kind(X))
    if y.ndim not in (1, 2) or y.dtype.kind not in "fiubU" or len(y) != len(X) or 0 in y.shape:
        expected = f"[{len(X)}] or [{len(X)},outputs]"
        raise RefusedError("the target cannot be used", expected=expected, found=_kind(y))
    with np.errstate(over="ignore"):
        X = X.astype(np.float32, copy=False)
    if not np.isfinite(X).all():
        raise RefusedError("the features hold values that are not finite in float32")
    if y.dtype.kind == "f" if like is None else like.classes is None:
        if y.dtype.kind == "U":
            raise RefusedError("the target cannot be used", expected="numbers", found=_kind(y))
        with np.errstate(over="ignore"):
            y = y.astype(np.float32, copy=False)
        if not np.isfinite(y).all():
            raise RefusedError("the target holds values that are not finite in float32")
        return Table(X, y, None)
    if y.ndim != 1:
        raise RefusedError("the target cannot be used", expected="classes [rows]", found=_kind(y))
    texts = [str(value) for value in y.tolist()]
    places = [f"row {row}" for row in range(len(texts))]
    indices, classes = _indices(texts, places, target or "y", None if like is None else like.classes)
    return Table(X, indices, classes)


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype} [{','.join(map(str, values.shape))}]"


def _read_array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """Read one .npy of `size` bytes; the count in its header is checked before memory is taken for it."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        raise ValueError(f"{count} elements of {dtype} do not fit into {size} bytes")
    data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("the data are truncated")
    flat = np.frombuffer(data, dtype=dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
