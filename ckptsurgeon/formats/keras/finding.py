"""Recognises HDF5 files, sets of them and Keras's zip files, by content."""

from __future__ import annotations

import os

from ... import errors
from ...errors import CkptSurgeonError, DamagedError
from ..files import zipped
from . import archive
from .reading import MAGIC

_INDEX = ".weights.json"
_LONGEST_INDEX = 64 << 20  # bytes
_FURTHEST = 1 << 20  # bytes before an HDF5 file that may be its user's own


def kind_of(path: str) -> str | None:
    """Whether a file is `hdf5` or `keras-zip`; None if it is something else."""
    with open(path, "rb") as file:
        head = file.read(len(MAGIC))
        if head == MAGIC:
            return "hdf5"
        fd = file.fileno()
        size = os.fstat(fd).st_size
        if head.startswith((zipped.MAGIC, zipped.EMPTY)):
            try:
                members = zipped.ZipDirectory(lambda at, count: os.pread(fd, count, at), size).members
            except CkptSurgeonError:
                return None
            return "keras-zip" if archive.is_keras({member.text for member in members}) else None
        at = 512
        while at < min(size, _FURTHEST):
            if os.pread(fd, len(MAGIC), at) == MAGIC:
                return "hdf5"
            at *= 2
    return None


def locate(path: str) -> tuple[str, list[str]] | None:
    """The checkpoint that a path means: a file, the index of several, or the folder of a model that is no zip file.

    Returns:
        Its format and its files, the main one first; None if it is none.

    Raises:
        DamagedError: a file of a set is missing, or its index is none.
    """
    if os.path.isdir(path):
        inner = os.path.join(path, archive.WEIGHTS)
        is_model = os.path.isfile(inner) and os.path.isfile(os.path.join(path, archive.CONFIG))
        return ("hdf5", [inner]) if is_model else None
    if not os.path.isfile(path):
        return None
    if path.endswith(_INDEX):
        return "hdf5", [path, *_set(path)]
    kind = kind_of(path)
    return (kind, [path]) if kind else None


def _set(index: str) -> list[str]:
    with errors.files(index), open(index, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > _LONGEST_INDEX:
            raise DamagedError("too large for an index", expected=f"at most {_LONGEST_INDEX} bytes", found=size)
        file.seek(0)
        names = archive.shard_names(file.read(size))
    folder = os.path.dirname(index)
    paths = [os.path.join(folder, name) for name in names]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        what = f"a file of the checkpoint is missing: {missing[0]}"
        raise DamagedError(what, path=index, expected=f"{len(paths)} files", found=len(paths) - len(missing))
    return paths
