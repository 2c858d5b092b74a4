"""Rows to train on: read from csv, npz or npy, cut into mini-batches, handed on as small .npz files.

Rows are read and checked a part at a time and mapped from files, so that ten million take no more memory than ten
thousand. NumPy only; nothing is ever unpickled.
"""

from __future__ import annotations

from ..errors import UsageError, files
from . import csv_rows, numpy_files
from .batches import Batches, permute, write_batch
from .numpy_files import load_npy, load_npz, npy_bytes
from .table import Table

__all__ = ["Batches", "Table", "load_npy", "load_npz", "npy_bytes", "permute", "read", "write_batch"]


def read(path: str, target: str | None = None, like: Table | None = None, folder: str | None = None) -> Table:
    """Read a table; the container is recognised by content.

    Args:
        path: csv with a header line, .npz, or .npy with the features alone.
        target: the column to predict (csv); the name of its array (npz; 'y' unless told otherwise, the
            features are 'X'); the path of its own .npy (npy).
        like: the table that a model was trained on: its kind of target and its classes are kept.
        folder: where many rows lie meanwhile, in files without a name; None: with the system's temporary files.

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
                raise UsageError("contains only the features", hint="name the .npy file of the target")
            return numpy_files.table(load_npy(path), load_npy(target), None, like, folder)
        if magic[:4] == b"PK\x03\x04":
            return numpy_files.read_npz(path, target, like, folder)
        if target is None:
            raise UsageError("no target was given", hint="name the column to predict")
        return csv_rows.read(path, target, like, folder)
