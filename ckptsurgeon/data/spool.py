"""Arrays collected in parts and finally mapped from a file, so that large ones need no memory."""

from __future__ import annotations

import io
import mmap
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import files

_MEMORY = 1 << 18  # bytes kept in memory before a file is created


class Spool:
    """Collects the values of one array, in memory or, if there are many, in a file.

    The file has no name, so it disappears however the process ends.

    Args:
        dtype: dtype of the values.
        folder: where to create the file; None for the system's temporary folder, which may be in memory.
    """

    __slots__ = ("_dtype", "_file", "_folder", "_size")

    def __init__(self, dtype: DTypeLike, folder: str | None) -> None:
        self._dtype = np.dtype(dtype)
        self._folder = folder
        self._file: IO[bytes] = io.BytesIO()
        self._size = 0

    def append(self, values: NDArray[Any]) -> None:
        """Append values."""
        self.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())

    def write(self, data: bytes) -> None:
        """Append the bytes of values.

        Raises:
            StorageError: the disk is full, or the file cannot be created.
        """
        if self._size <= _MEMORY < self._size + len(data):
            self._spill()
        with files(self._folder or "a temporary file"):
            self._file.write(data)
        self._size += len(data)

    def array(self) -> NDArray[Any]:
        """Return all values as a read-only, one-dimensional array. Nothing can be appended afterwards."""
        if self._size <= _MEMORY:
            self._file.seek(0)
            return np.frombuffer(self._file.read(), dtype=self._dtype)
        with files(self._folder or "a temporary file"), self._file as file:
            file.flush()
            return np.frombuffer(mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ), dtype=self._dtype)

    def _spill(self) -> None:
        import tempfile  # a slow import that small tables avoid

        held = self._file
        with files(self._folder or "a temporary file"):
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="ckptsurgeon-")  # closed by `array`
            held.seek(0)
            self._file.write(held.read())
