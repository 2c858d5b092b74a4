"""Training data: read from csv, parquet, npz, npy or images, split into mini-batches, passed on as small .npz files.

Rows are read and checked in parts and mapped from files, so ten million rows take no more memory than ten thousand.
NumPy only, but for parquet (pyarrow) and images (Pillow); nothing is ever unpickled.
"""

from __future__ import annotations

import os

from ..errors import RefusedError, UsageError, files
from . import csv_rows, numpy_files
from .batches import Batches, permute, read_batch, write_batch
from .numpy_files import load_npy, load_npz, npy_bytes
from .table import Table

__all__ = [
    "Batches",
    "Table",
    "kind",
    "load_npy",
    "load_npz",
    "npy_bytes",
    "permute",
    "read",
    "read_batch",
    "write_batch",
]

_MAGIC = {
    b"\x93NUMPY": "array",
    b"PK\x03\x04": "archive",
    b"PAR1": "parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x89PNG": "image",
    b"\xff\xd8\xff": "image",
}


def kind(path: str) -> str:
    """Return what a file is by content: "array" (.npy), "archive" (.npz), "parquet", "images" (a folder) or "csv".

    Raises:
        RefusedError: a single image, or text in UTF-16.
        CkptSurgeonError: the file cannot be read.
    """
    with files(path):
        if os.path.isdir(path):
            return "images"
        with open(path, "rb") as file:
            start = file.read(6)
        found = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "csv")
        if found == "UTF-16":
            raise RefusedError("is UTF-16 text", expected="UTF-8", hint="save it again as UTF-8")
        if found == "image":
            raise RefusedError("is one image", expected="a folder with one subfolder of images per class")
        return found


def read(path: str, target: str | None = None, like: Table | None = None, folder: str | None = None) -> Table:
    """Read a table; the file format is recognised by content.

    Args:
        path: csv with a header line, parquet, .npz, .npy with only the features, or a folder with one subfolder of
            images per class.
        target: the column to predict (csv, parquet); the name of its array (npz; None for 'y'; the features are 'X');
            the path of the target's .npy (npy); not used for images.
        like: the table a model was trained on; the result has the same kind of target and the same classes.
        folder: where to put unnamed temporary files for many rows; None for the system's folder.

    Raises:
        UsageError: there is no such target.
        RefusedError: the file is intact, but unusable as training data; names the line and the column.
        DamagedError: the file is not of the format that its first bytes indicate.
        UnsupportedError: the package that reads this format is not installed.
    """
    found = kind(path)
    with files(path):
        if found == "images":
            from . import images

            return images.read(path, like, folder)
        if found == "archive":
            return numpy_files.read_npz(path, target, like, folder)
        if target is None:
            if found == "array":
                raise UsageError("contains only the features", hint="name the .npy file of the target")
            raise UsageError("no target was given", hint="name the column to predict")
        if found == "array":
            return numpy_files.table(load_npy(path), load_npy(target), None, like, folder)
        if found == "parquet":
            from . import parquet

            return parquet.read(path, target, like, folder)
        return csv_rows.read(path, target, like, folder)
