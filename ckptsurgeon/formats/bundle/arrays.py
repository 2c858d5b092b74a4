"""Converts the values of a TensorBundle to NumPy arrays, and arrays to its bytes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import errors, numeric
from ...checkpoint import Extent, Variable
from ...errors import RefusedError, UnsupportedError
from ...plan import Copy, Values
from ..tensorflow.tensors import NUMBERS, check_whole, slice_shape
from ..tensorflow.wire import crc32c, mask
from .strings import encode_strings, read_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...plan import Elements
    from .shards import Shards


def read(shards: Shards, variable: Variable) -> NDArray[Any]:
    """Return the values of a variable, with its checksums verified; see `Checkpoint.read`."""
    if variable.dtype == "variant":
        raise UnsupportedError(f"{variable.name} is a variant: its values belong to TensorFlow", path=shards.path)
    check_whole(variable, shards.path)
    kind = numeric.dtype(variable.dtype)
    _check_room(shards, variable)
    whole = _allocate(shards, variable, variable.shape, kind)
    if variable.slices is None:
        _read_extent(shards, variable.extents[0], whole)
        return whole
    for extents, extent in zip(variable.slices, variable.extents, strict=True):
        part = _allocate(shards, variable, slice_shape(extents, variable.shape), kind)
        _read_extent(shards, extent, part)
        whole[tuple(slice(start, None if length < 0 else start + length) for start, length in extents)] = part
    return whole


def elements(shards: Shards, variable: Variable) -> Iterator[NDArray[Any]]:
    """Yield the values of a variable in portions; see `Checkpoint.elements`."""
    extents = _in_c_order(variable) if variable.is_numeric and variable.is_whole else None
    if extents is None:
        yield read(shards, variable).reshape(-1)
        return
    kind = numeric.dtype(variable.dtype)
    for extent in extents:
        for chunk in shards.checked_chunks(extent):
            values = np.frombuffer(chunk, kind)
            yield values if shards.byteorder == sys.byteorder else values.byteswap()


def _in_c_order(variable: Variable) -> list[Extent] | None:
    """Return the extents whose values, one after the other, are in C order; None if this is impossible."""
    if variable.slices is None:
        return list(variable.extents)
    rest = variable.shape[1:]
    for part in variable.slices:
        if any(length not in (-1, size) for (_, length), size in zip(part[1:], rest, strict=True)):
            return None
    pairs = sorted(zip(variable.slices, variable.extents, strict=True), key=lambda pair: pair[0][0])
    return [extent for _, extent in pairs]


def values_of(content: Copy | Values | Elements, variable: Variable) -> NDArray[Any]:
    """Return all new values of a variable, in memory."""
    if isinstance(content, Copy):
        return content.donor.read(content.variable.name)
    if isinstance(content, Values):
        return content.values
    return np.concatenate([*content.make(), np.empty(0, numeric.dtype(variable.dtype))]).reshape(variable.shape)


def _check_room(shards: Shards, variable: Variable) -> None:
    """Check before allocating memory that the files are as large as the extents, counting shared bytes each time."""
    room = sum(shards.open(path).size for path in {extent.file for extent in variable.extents})
    needed = sum(extent.length for extent in variable.extents)
    if needed > room:
        raise shards.damaged(variable.extents[0], "cut short", f"at least {needed} bytes", room)


def _allocate(shards: Shards, variable: Variable, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    with errors.allocating(variable.name, shape, shards.path):
        return np.empty(shape, kind)


def _read_extent(shards: Shards, extent: Extent, values: NDArray[Any]) -> None:
    """Fill a new array with the stored values of an extent."""
    if values.dtype.kind == "O":
        values.reshape(-1)[:] = read_strings(shards, extent, values.size)
        return
    data = values.reshape(-1).view(np.uint8)
    at = 0
    for chunk in shards.checked_chunks(extent):
        data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    if shards.byteorder != sys.byteorder:
        values.byteswap(inplace=True)


def encode(values: NDArray[Any], dtype: str, byteorder: str) -> tuple[bytes, int]:
    """Return the stored bytes of values, and their masked checksum.

    Args:
        values: values of `numeric.dtype(dtype)`, in any byte order; for strings, objects of type bytes.
        dtype: the variable's.
        byteorder: the bundle's, "little" or "big".
    """
    if dtype == "string":
        strings: list[bytes] = values.ravel().tolist()
        return encode_strings(strings, byteorder)
    data = to_bytes(values, byteorder)
    return data, mask(crc32c(data))


def to_bytes(values: NDArray[Any], byteorder: str) -> bytes:
    """Return numbers as bytes in C order, whatever the array's memory order."""
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if byteorder != sys.byteorder and values.dtype.itemsize > 1:
        values = values.byteswap()
    return values.tobytes()


def encode_number(number: float, dtype: str, byteorder: str) -> bytes:
    """Return the bytes of one element of a dtype.

    Raises:
        RefusedError: the number does not fit the dtype.
    """
    values = numeric.cast_exactly(np.asarray(number), numeric.dtype(dtype), f"the fill value's dtype {dtype}")
    return encode(values, dtype, byteorder)[0]


def split(values: NDArray[Any], variable: Variable) -> list[NDArray[Any]]:
    """Return the values of each extent of a variable."""
    if variable.slices is None:
        return [values]
    return [
        values[tuple(slice(start, None if length < 0 else start + length) for start, length in extents)]
        for extents in variable.slices
    ]


def dtype_of(values: NDArray[Any], name: str) -> str:
    """Return the name of the dtype under which values are stored.

    Raises:
        RefusedError: TensorFlow has no such dtype, or an object is not of type bytes.
    """
    dtype = "string" if values.dtype.kind == "O" else values.dtype.name
    if dtype == "string" and not all(isinstance(value, bytes) for value in values.ravel().tolist()):
        raise RefusedError(f"{name}: a string is stored as bytes")
    if dtype not in NUMBERS:
        raise RefusedError(f"{name}: values of dtype {values.dtype} cannot be stored")
    return dtype
