"""Tables from .npy and .npz files, which are mapped or streamed instead of loaded as a whole.

Nothing is ever unpickled, and sizes in headers are checked before they are used.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CkptSurgeonError, DamagedError, RefusedError, UsageError, did_you_mean, files, one_line, shape_text
from .spool import Spool
from .table import Table
from .target import Target, parts

# The largest ratio that deflate can reach (RFC 1951: a match of 258 bytes in 2 bits); larger claims are false.
_MAX_INFLATION = 1032
_BLOCK = 1 << 17  # bytes read from an archive at a time


def load_npy(path: str) -> NDArray[Any]:
    """Map a .npy file into memory, read-only; arrays of Python objects are refused."""
    with files(path):
        try:
            if os.path.getsize(path) < 10:  # NumPy's error for such a short file is misleading
                raise ValueError("the file is truncated")
            loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy raises ValueError, TokenError, TypeError and others for damaged headers
            raise DamagedError(f"not a readable .npy file: {one_line(error, 200) or type(error).__name__}") from error
        return loaded


def load_npz(path: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz file; refuse sizes that a file of this size cannot contain."""
    return _members(path, lambda names: names, _in_memory)


def read_npz(path: str, target: str | None, like: Table | None, folder: str | None) -> Table:
    """Read a table from the arrays 'X' and `target` ('y' if None) of an .npz file.

    Raises:
        UsageError: there is no such array.
        RefusedError: the arrays are unusable as training data.
    """

    def choose(names: list[str]) -> list[str]:
        for name in ("X", target or "y"):
            if name not in names:
                hint = did_you_mean(name, names) or f"the arrays are {', '.join(names) or 'none'}"
                raise UsageError(f"there is no array {name!r}", hint=hint)
        return ["X", target or "y"]

    def spooled(stream: IO[bytes], dtype: np.dtype[Any], size: int) -> NDArray[Any]:
        spool = Spool(dtype, folder)
        for start in range(0, size, _BLOCK):
            spool.write(_exactly(stream, min(_BLOCK, size - start)))
        return spool.array()

    arrays = _members(path, choose, spooled)
    return table(arrays["X"], arrays[target or "y"], target, like, folder)


def npy_bytes(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield the bytes of a .npy file with the values, in parts and in row order."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    for part in parts(values):
        yield part.tobytes()


def table(X: NDArray[Any], y: NDArray[Any], target: str | None, like: Table | None, folder: str | None) -> Table:
    """Make a table from two arrays.

    X may have any number of axes after the rows. A y of integers, text or booleans contains classes, a y of floats
    values.
    """
    if X.ndim < 2 or X.dtype.kind not in "fiub" or 0 in X.shape:
        hint = "X[:, None] makes it one feature per row" if X.ndim == 1 else None
        expected = "numbers [rows, features], or with more axes"
        raise RefusedError("the features cannot be used", expected=expected, found=_kind(X), hint=hint)
    if y.ndim not in (1, 2) or y.dtype.kind not in "fiubU" or len(y) != len(X) or 0 in y.shape:
        expected = f"[{len(X)}] or [{len(X)},outputs]"
        raise RefusedError("the target cannot be used", expected=expected, found=_kind(y))
    X = _floats(X, "features", folder)
    if y.dtype.kind == "f" if like is None else like.classes is None:
        if y.dtype.kind == "U":
            raise RefusedError("the target cannot be used", expected="numbers", found=_kind(y))
        return Table(X, _floats(y, "target", folder), None)
    if y.ndim != 1:
        raise RefusedError("the target cannot be used", expected="classes [rows]", found=_kind(y))
    found, start = Target(target or "y", folder, like, classes=True), 0
    for part in parts(y):

        def place(number: int, start: int = start) -> str:
            return f"row {start + number}"

        found.add(list(map(str, part.tolist())), place)
        start += len(part)
    indices, classes = found.finish()
    return Table(X, indices, classes)


def _floats(values: NDArray[Any], what: str, folder: str | None) -> NDArray[np.float32]:
    """Return the values as float32, unchanged if they are; refuse those that are not finite."""
    spool = None if values.dtype == np.float32 else Spool(np.float32, folder)
    start = 0
    for part in parts(values):
        with np.errstate(over="ignore"):
            converted = part.astype(np.float32, copy=False)
        finite = np.isfinite(converted)
        if not finite.all():
            row = start + int(np.argwhere(~finite)[0][0])
            raise RefusedError(f"the {what} contain values that are not finite as float32", found=f"one in row {row}")
        if spool is not None:
            spool.append(converted)
        start += len(part)
    return values if spool is None else spool.array().reshape(values.shape)


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype} {shape_text(*values.shape)}"


_Reader = Callable[[IO[bytes], "np.dtype[Any]", int], "NDArray[Any]"]


def _members(path: str, choose: Callable[[list[str]], list[str]], read: _Reader) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive selected by `choose`, each read with `read`."""
    with files(path):
        try:
            limit = os.path.getsize(path) * _MAX_INFLATION
            with zipfile.ZipFile(path) as archive:
                names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
                arrays = {}
                for name in choose(names):
                    member = archive.getinfo(f"{name}.npy")
                    if member.file_size > limit:
                        raise ValueError(f"{member.filename} claims {member.file_size} bytes")
                    with archive.open(member) as stream:
                        arrays[name] = _array(stream, member.file_size, read)
        except (OSError, CkptSurgeonError):
            raise
        except Exception as error:  # zipfile and NumPy raise many exception types for damaged files
            raise DamagedError(f"not a readable .npz file: {one_line(error, 200) or type(error).__name__}") from error
        return arrays


def _array(stream: IO[bytes], size: int, read: _Reader) -> NDArray[Any]:
    """Read one .npy of `size` bytes; check the count in its header before allocating memory."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("it contains pickled objects")
    count = math.prod(shape)
    if count * dtype.itemsize > size:
        raise ValueError(f"{count} elements of {dtype} do not fit into {size} bytes")
    flat = read(stream, dtype, count * dtype.itemsize)
    stream.read(1)  # reach the end, where zipfile compares the checksum
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _in_memory(stream: IO[bytes], dtype: np.dtype[Any], size: int) -> NDArray[Any]:
    return np.frombuffer(_exactly(stream, size), dtype=dtype)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the data is truncated")
    return data
