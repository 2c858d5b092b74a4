"""Recognises HDF5 files, sets of them, and Keras zip files by their content."""

from __future__ import annotations

import os

from ... import errors
from ...errors import CkptSurgeonError, DamagedError
from ...source import is_file, is_folder, open_source
from ..files import zipped
from . import archive
from .reading import MAGIC

_INDEX = ".weights.json"
_LONGEST_INDEX = 64 << 20  # bytes
_FURTHEST = 1 << 20  # largest user block before the HDF5 data, in bytes


def kind_of(path: str) -> str | None:
    """Return `hdf5` or `keras-zip` for such a file; None for any other."""
    with open_source(path) as file:
        head = file.read(0, len(MAGIC))
        if head == MAGIC:
            return "hdf5"
        if head.startswith((zipped.MAGIC, zipped.EMPTY)):
            try:
                members = zipped.ZipDirectory(file.read, file.size).members
            except CkptSurgeonError:
                return None
            return "keras-zip" if archive.is_keras({member.text for member in members}) else None
        at, end = 512, min(file.size, _FURTHEST)
        while at < end:
            if file.read(at, len(MAGIC)) == MAGIC:
                return "hdf5"
            at *= 2
    return None


def locate(path: str) -> tuple[str, list[str]] | None:
    """Find the checkpoint at a path: a file, the index of a set, or the folder of an unzipped model.

    Returns:
        Its format and its files, the main file first; None if it is not HDF5 or Keras.

    Raises:
        DamagedError: a file of a set is missing, or its index is invalid.
    """
    if is_folder(path):
        inner = os.path.join(path, archive.WEIGHTS)
        is_model = is_file(inner) and is_file(os.path.join(path, archive.CONFIG))
        return ("hdf5", [inner]) if is_model else None
    if not is_file(path):
        return None
    if path.endswith(_INDEX):
        return "hdf5", [path, *_set(path)]
    kind = kind_of(path)
    return (kind, [path]) if kind else None


def _set(index: str) -> list[str]:
    with errors.files(index), open_source(index) as file:
        size = file.size
        if size > _LONGEST_INDEX:
            raise DamagedError("too large for an index", expected=f"at most {_LONGEST_INDEX} bytes", found=size)
        names = archive.shard_names(file.read(0, size))
    folder = os.path.dirname(index)
    paths = [os.path.join(folder, name) for name in names]
    missing = [path for path in paths if not is_file(path)]
    if missing:
        what = f"a file of the checkpoint is missing: {missing[0]}"
        raise DamagedError(what, path=index, expected=f"{len(paths)} files", found=len(paths) - len(missing))
    return paths
