"""Training data: read from csv, npz or npy, split into mini-batches, passed on as small .npz files.

Rows are read and checked in parts and mapped from files, so ten million rows take no more memory than ten thousand.
NumPy only; nothing is ever unpickled.
"""

from __future__ import annotations

from ..errors import UsageError, files
from . import csv_rows, numpy_files
from .batches import Batches, permute, read_batch, write_batch
from .numpy_files import load_npy, load_npz, npy_bytes
from .table import Table

__all__ = ["Batches", "Table", "load_npy", "load_npz", "npy_bytes", "permute", "read", "read_batch", "write_batch"]


def read(path: str, target: str | None = None, like: Table | None = None, folder: str | None = None) -> Table:
    """Read a table; the file format is recognised by content.

    Args:
        path: csv with a header line, .npz, or .npy with only the features.
        target: the column to predict (csv); the name of its array (npz; None for 'y'; the features are 'X');
            the path of the target's .npy (npy).
        like: the table a model was trained on; the result has the same kind of target and the same classes.
        folder: where to put unnamed temporary files for many rows; None for the system's folder.

    Raises:
        UsageError: there is no such target.
        RefusedError: the file is intact, but unusable as training data; names the line and the column.
        DamagedError: the file is not of the format that its first bytes indicate.
    """
    with files(path):
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            if target is None:
                raise UsageError("contains only the features", hint="name the .npy file of the target")
            return numpy_files.table(load_npy(path), load_npy(target), None, like, folder)
        if magic[:4] == b"PK\x03\x04":
            return numpy_files.read_npz(path, target, like, folder)
        if target is None:
            raise UsageError("no target was given", hint="name the column to predict")
        return csv_rows.read(path, target, like, folder)
