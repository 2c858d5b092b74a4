"""Values that come one part after another and are mapped from a file in the end, so that many cost no memory."""

from __future__ import annotations

import io
import mmap
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import files

_MEMORY = 1 << 18  # bytes that are held in memory before a file is made


class Spool:
    """Collects the values of one array: in memory while they are few, else in a file.

    The file has no name, so nothing of it is left however the process ends.

    Args:
        dtype: of the values.
        folder: where the file is made; None: where the system keeps temporary files, which may be memory.
    """

    __slots__ = ("_dtype", "_file", "_folder", "_size")

    def __init__(self, dtype: DTypeLike, folder: str | None) -> None:
        self._dtype = np.dtype(dtype)
        self._folder = folder
        self._file: IO[bytes] = io.BytesIO()
        self._size = 0

    def append(self, values: NDArray[Any]) -> None:
        """Take values of the array, in its order."""
        self.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())

    def write(self, data: bytes) -> None:
        """Take bytes of the array.

        Raises:
            StorageError: the folder's disk is full, or refuses a file.
        """
        if self._size <= _MEMORY < self._size + len(data):
            self._spill()
        with files(self._folder or "a temporary file"):
            self._file.write(data)
        self._size += len(data)

    def array(self) -> NDArray[Any]:
        """All values, read-only, of one dimension. Nothing can be appended any more."""
        if self._size <= _MEMORY:
            self._file.seek(0)
            return np.frombuffer(self._file.read(), dtype=self._dtype)
        with files(self._folder or "a temporary file"), self._file as file:
            file.flush()
            return np.frombuffer(mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ), dtype=self._dtype)

    def _spill(self) -> None:
        import tempfile  # takes some milliseconds, which small tables need not pay

        held = self._file
        with files(self._folder or "a temporary file"):
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="ckptsurgeon-")  # closed by `array`
            held.seek(0)
            self._file.write(held.read())
