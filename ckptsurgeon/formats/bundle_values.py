"""Values of a TensorBundle as NumPy arrays, and arrays as its bytes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import numeric
from ..checkpoint import Extent, Variable
from ..errors import RefusedError, UnsupportedError
from .bundle import Bundle
from .bundle_strings import encode_strings, string_lengths
from .tensor_proto import NUMBERS, slice_shape
from .wire import crc32c, mask


def read(bundle: Bundle, variable: Variable) -> NDArray[Any]:
    """The values of a variable, its checksums verified; see `Checkpoint.read`."""
    if variable.dtype == "variant":
        raise UnsupportedError(f"{variable.name} is a variant: its values belong to TensorFlow", path=bundle.path)
    if variable.slices is None:
        return _read_extent(bundle, variable, variable.extents[0], variable.shape)
    whole = np.empty(variable.shape, numeric.dtype(variable.dtype))
    for extents, extent in zip(variable.slices, variable.extents, strict=True):
        place = tuple(slice(start, None if length < 0 else start + length) for start, length in extents)
        whole[place] = _read_extent(bundle, variable, extent, slice_shape(extents, variable.shape))
    return whole


def _read_extent(bundle: Bundle, variable: Variable, extent: Extent, shape: tuple[int, ...]) -> NDArray[Any]:
    if variable.dtype == "string":
        strings = np.empty(shape, object)
        strings.reshape(-1)[:] = _read_strings(bundle, extent, strings.size)
        return strings
    kind = numeric.dtype(variable.dtype)
    data = np.empty(extent.length, np.uint8)
    at = 0
    for chunk in bundle.checked_chunks(extent):
        data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    values = data.view(kind).reshape(shape)
    if bundle.byteorder != sys.byteorder and kind.itemsize > 1:
        values = values.byteswap()
    return values


def _read_strings(bundle: Bundle, extent: Extent, count: int) -> list[bytes]:
    data = b"".join(bundle.checked_stream(extent, "string", count))
    if not data:
        return []
    lengths, at = string_lengths(bundle, extent, count)
    at += 4  # the checksum of the lengths
    strings = []
    for length in lengths:
        strings.append(data[at : at + length])
        at += length
    return strings


def encode(values: NDArray[Any], dtype: str, byteorder: str) -> tuple[bytes, int]:
    """The stored bytes of values of a dtype, and their masked checksum.

    Args:
        values: of `numeric.dtype(dtype)`, or objects of type bytes for strings.
        dtype: the variable's.
        byteorder: the bundle's, "little" or "big".
    """
    if dtype == "string":
        return encode_strings([bytes(value) for value in values.ravel()], byteorder)
    values = np.ascontiguousarray(values)
    if byteorder != sys.byteorder and values.dtype.itemsize > 1:
        values = values.byteswap()
    data = values.tobytes()
    return data, mask(crc32c(data))


def encode_number(number: float, dtype: str, byteorder: str) -> bytes:
    """One element of a dtype.

    Raises:
        RefusedError: the number does not fit the dtype.
    """
    values = numeric.cast_exactly(np.asarray(number), numeric.dtype(dtype), f"the fill value's dtype {dtype}")
    return encode(values, dtype, byteorder)[0]


def split(values: NDArray[Any], variable: Variable) -> list[NDArray[Any]]:
    """The values of each extent of a variable."""
    if variable.slices is None:
        return [values]
    return [
        values[tuple(slice(start, None if length < 0 else start + length) for start, length in extents)]
        for extents in variable.slices
    ]


def dtype_of(values: NDArray[Any], name: str) -> str:
    """The dtype name under which values are stored.

    Raises:
        RefusedError: TensorFlow has no such dtype.
    """
    dtype = "string" if values.dtype.kind == "O" else values.dtype.name
    if dtype not in NUMBERS:
        raise RefusedError(f"{name}: values of dtype {values.dtype} cannot be stored")
    return dtype
