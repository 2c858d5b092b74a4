"""Slices: the rows of a V1 checkpoint's tables that hold values, found and decoded down to encoded numbers."""

from __future__ import annotations

from ... import errors
from ...errors import DamagedError, UnsupportedError
from ..tensorflow.tensors import slice_key
from .rows import FIELDS, count_of, slices_of, tensor_of, value_pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ...checkpoint import Variable
    from ..tensorflow.sstable import Table


class Slices:
    """The slices of an open V1 checkpoint, with everything that helpers need to know of the checkpoint.

    Attributes:
        path: the checkpoint's path, for error messages.
        tables: file's path -> its table.
    """

    __slots__ = ("path", "tables")

    def __init__(self, path: str, tables: Mapping[str, Table]) -> None:
        self.path = path
        self.tables = tables

    def message(self, variable: Variable, number: int) -> bytes:
        """Return the row of a variable's slice: an encoded SavedTensorSlices with the expected name and slice.

        Raises:
            DamagedError: the row is missing, belongs to another slice, or has a wrong checksum.
        """
        return self._row(variable, number)[0]

    def tensor(self, variable: Variable, number: int) -> memoryview:
        """Return the encoded TensorProto of a variable's slice; its values are not checked."""
        return self._row(variable, number)[1]

    def pieces(self, variable: Variable, number: int) -> list[bytes]:
        """Return the encoded values of a variable's slice in pieces; for strings, one piece each.

        Raises:
            DamagedError: the number of values is wrong, or they are not encoded as the dtype requires.
            UnsupportedError: no V1 checkpoint can hold the dtype.
        """
        if variable.dtype not in FIELDS:
            raise UnsupportedError(f"{variable.name}: {variable.dtype} in a V1 checkpoint", path=self.path)
        return self.values(variable, number, self.tensor(variable, number))

    def values(self, variable: Variable, number: int, tensor: memoryview) -> list[bytes]:
        """As `pieces`, from the TensorProto of the slice."""
        with self.naming(variable, number):
            return value_pieces(tensor, variable.dtype, count_of(variable, number))

    def _row(self, variable: Variable, number: int) -> tuple[bytes, memoryview]:
        extents = slices_of(variable)[number]
        with self.naming(variable, number):
            row = self.tables[variable.extents[number].file].get(slice_key(variable.key, extents))
            if row is None:
                raise DamagedError("damaged: a slice is missing", found=list(extents))
            return row, tensor_of(row, variable, extents)

    def naming(self, variable: Variable, number: int) -> errors.files:
        """Return a context for decoding a slice: it adds the variable and the file to a DamagedError."""
        return _naming(variable, variable.extents[number].file)


class _naming(errors.files):
    def __init__(self, variable: Variable, path: str) -> None:
        super().__init__(path)
        self.variable = variable

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, DamagedError) and error.path is None:
            raise within(error, self.variable.key, self.path) from error
        super().__exit__(kind, error, trace)


def within(error: DamagedError, key: bytes, path: str) -> DamagedError:
    """Return the same error with the tensor's name and the file."""
    name = key[:200].decode("utf-8", "surrogateescape")
    return DamagedError(f"{error.what}, of {name}", path=path, expected=error.expected, found=error.found)
