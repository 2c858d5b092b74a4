"""Converts the values of a TensorFlow V1 checkpoint to NumPy arrays, and arrays to its TensorProtos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import errors, numeric
from ...checkpoint import Variable
from ...errors import DamagedError, UnsupportedError
from ..tensorflow.tensors import check_whole, slice_shape
from ..tensorflow.wire import BYTES, VARINT, bytes_field
from .rows import FIELDS, in_file_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .slices import Slices

_WINDOW = 1 << 16  # bytes or values handled at a time; several arrays of 8 times that size are made
_LONGEST = 10  # bytes of a varint
_SEVEN = np.uint64(7)


def read(slices: Slices, variable: Variable) -> NDArray[Any]:
    """Return the values of a variable, with its checksums verified; see `Checkpoint.read`.

    No memory is allocated before it is certain that the file holds that many values.
    """
    if variable.dtype not in FIELDS:
        what = f"{variable.name}: values of dtype {variable.dtype} in a V1 checkpoint"
        raise UnsupportedError(what, path=slices.path)
    if variable.slices is None:
        return _read_slice(slices, variable, 0, variable.shape)
    check_whole(variable, slices.path)
    parts = {
        number: _read_slice(slices, variable, number, slice_shape(variable.slices[number], variable.shape))
        for number in in_file_order(variable)
    }
    whole = _allocate(slices, variable, variable.shape)
    for number, extents in enumerate(variable.slices):
        part = parts.pop(number)
        whole[tuple(slice(start, None if length < 0 else start + length) for start, length in extents)] = part
    return whole


def _read_slice(slices: Slices, variable: Variable, number: int, shape: tuple[int, ...]) -> NDArray[Any]:
    pieces = slices.pieces(variable, number)
    values = _allocate(slices, variable, shape)
    flat = values.reshape(-1)
    if variable.dtype == "string":
        flat[:] = pieces
        return values
    at = 0
    with slices.naming(variable, number):
        for part in _numbers(pieces, variable.dtype):
            flat[at : at + len(part)] = part
            at += len(part)
    return values


def _allocate(slices: Slices, variable: Variable, shape: tuple[int, ...]) -> NDArray[Any]:
    with errors.allocating(variable.name, shape, slices.path):
        return np.empty(shape, numeric.dtype(variable.dtype))


def check(pieces: Iterable[bytes], dtype: str) -> None:
    """Check that encoded integers, booleans or halves are in the range of their dtype.

    Raises:
        DamagedError: a value is out of range.
    """
    for _ in _numbers(pieces, dtype):
        pass


def _numbers(pieces: Iterable[bytes], dtype: str) -> Iterator[NDArray[Any]]:
    """Yield the values of encoded numbers in portions, in native byte order."""
    kind = numeric.dtype(dtype)
    if FIELDS[dtype][1] != VARINT:
        pieces = list(pieces)
        if pieces:  # nearly always one piece; the two parts of a complex number may be in different ones
            yield np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), kind.newbyteorder("<"))
        return
    stored = np.dtype(np.uint16) if dtype == "float16" else kind
    lowest, highest = (0, 1) if dtype == "bool" else (np.iinfo(stored).min, np.iinfo(stored).max)
    for piece in pieces:
        for wide in _varints(piece):
            if wide.min() < lowest or wide.max() > highest:
                found = wide[(wide < lowest) | (wide > highest)][0]
                raise DamagedError(f"damaged: a value outside {dtype}", expected=f"{lowest} to {highest}", found=found)
            yield wide.astype(stored).view(kind)


def _varints(packed: bytes) -> Iterator[NDArray[np.int64]]:
    """Decode packed varints, the last of which is complete, to int64; yields one or more at a time."""
    data = np.frombuffer(packed, np.uint8)
    at = 0
    while at < len(data):
        window = data[at : at + _WINDOW]
        ends = np.flatnonzero(window < 0x80)
        if not len(ends):
            raise _too_long()
        lengths = np.diff(ends, prepend=-1)
        longest = int(lengths.max())
        if longest > _LONGEST:
            raise _too_long()
        starts = ends - lengths + 1
        values = (window[starts] & 0x7F).astype(np.uint64)
        for digit in range(1, longest):
            longer = np.flatnonzero(lengths > digit)
            byte = window[starts[longer] + digit]
            if digit == _LONGEST - 1 and byte.max() > 1:
                raise _too_long()
            values[longer] |= (byte & 0x7F).astype(np.uint64) << (_SEVEN * np.uint64(digit))
        yield values.view(np.int64)
        at += int(ends[-1]) + 1


def _too_long() -> DamagedError:
    return DamagedError("damaged: a number of more than 64 bits")


def encode(values: NDArray[Any], dtype: str) -> bytes:
    """Return the TensorProto of values, as TensorFlow puts it into a V1 checkpoint: without dtype and shape.

    Args:
        values: values of `numeric.dtype(dtype)`, in any byte order; for strings, objects of type bytes.
        dtype: the variable's, one of `FIELDS`.
    """
    field, wire = FIELDS[dtype]
    if wire == BYTES:
        return b"".join(bytes_field(field, string) for string in values.ravel().tolist())
    if not values.size:
        return b""
    flat = np.ascontiguousarray(values).reshape(-1)
    if wire != VARINT:
        return bytes_field(field, flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes())
    flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    if dtype == "float16":
        flat = flat.view(np.uint16)
    return bytes_field(field, b"".join(_packed(flat[at : at + _WINDOW]) for at in range(0, len(flat), _WINDOW)))


def _packed(values: NDArray[Any]) -> bytes:
    """Encode integers as varints; negative ones take 10 bytes."""
    wide = values.astype(np.int64).view(np.uint64)
    lengths = np.ones(len(wide), np.int64)
    for digit in range(1, _LONGEST):
        more = wide >= np.uint64(1) << (_SEVEN * np.uint64(digit))
        if not more.any():
            break
        lengths += more
    ends = np.cumsum(lengths)
    starts = ends - lengths
    out = np.empty(int(ends[-1]), np.uint8)
    for digit in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > digit)
        byte = (wide[longer] >> (_SEVEN * np.uint64(digit))).astype(np.uint8) & 0x7F
        out[starts[longer] + digit] = byte | np.where(lengths[longer] > digit + 1, 0x80, 0).astype(np.uint8)
    return out.tobytes()
