"""Recognises HDF5 files, sets of them, and Keras zip files by their content.

Keras and KerasHub write sets as `NAME.weights.json` and `NAME_?????.weights.h5`, transformers as `files/sets.py` says.
"""

from __future__ import annotations

import os
import re

from ... import errors
from ...errors import CkptSurgeonError, DamagedError
from ...source import is_file, is_folder, open_source
from ..files import sets, zipped
from . import archive
from .reading import MAGIC

ENDING = ".h5"
_INDEX = ".weights.json"
_PART = re.compile(r"(.+)_\d{5}\.weights\.h5", re.DOTALL)
_USUAL = ("tf_model",)  # the name that transformers looks for
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
    """Find the checkpoint at a path.

    Args:
        path: a file, a file or the index of a set, or a folder: that of an unzipped model, a preset of KerasHub, or a
            model of transformers.

    Returns:
        Its format and its files, the main file first; None if it is not HDF5 or Keras.

    Raises:
        DamagedError: a file of a set is missing, or its index is invalid.
    """
    if is_folder(path):
        usual = _usual(path)
        return locate(usual) if usual is not None else None
    if is_file(path):
        index = path if path.endswith(_INDEX) else _index_of(path)
        if index is not None:
            return "hdf5", [index, *_set(index)]
        kind = kind_of(path) if not sets.is_index(path, ENDING) else None
        if kind == "keras-zip":
            return kind, [path]
    files = sets.find(path, ENDING, lambda file: kind_of(file) == "hdf5", has_index=True)
    return ("hdf5", files) if files else None


def _usual(folder: str) -> str | None:
    """The weights of an unzipped model or a preset, whose config is in the same folder, or of a transformers model."""
    if is_file(os.path.join(folder, archive.CONFIG)):
        for name in (archive.WEIGHTS, archive.INDEX):
            if is_file(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return sets.usual(folder, _USUAL, ENDING)


def missing_index(path: str) -> str | None:
    """The absent index of the set that a file is a part of, by its name; None for other files."""
    part = _PART.fullmatch(path)
    if part is None:
        return sets.missing_index(path, ENDING)
    return None if _index_of(path) else part[1] + _INDEX


def _index_of(path: str) -> str | None:
    """The index that names a file as a part of its set; None if there is none."""
    part = _PART.fullmatch(path)
    index = part[1] + _INDEX if part else ""
    return index if is_file(index) and os.path.basename(path) in _names(index) else None


def _names(index: str) -> list[str]:
    with errors.files(index), open_source(index) as file:
        size = file.size
        if size > _LONGEST_INDEX:
            raise DamagedError("too large for an index", expected=f"at most {_LONGEST_INDEX} bytes", found=size)
        return archive.shard_names(file.read(0, size))


def _set(index: str) -> list[str]:
    names = _names(index)
    folder = os.path.dirname(index)
    paths = [os.path.join(folder, name) for name in names]
    missing = [path for path in paths if not is_file(path)]
    if missing:
        what = f"a file of the checkpoint is missing: {missing[0]}"
        raise DamagedError(what, path=index, expected=f"{len(paths)} files", found=len(paths) - len(missing))
    return paths
