"""From any spelling of a checkpoint's path to its files; what a file is, told by its first bytes."""

from __future__ import annotations

import os

from .. import errors
from ..errors import CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError
from . import state
from .sstable import MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What a file is that is no TensorFlow V2 checkpoint, by its first bytes. Only named, never opened.
_OTHERS = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PK\x03\x04", "a zip file (.keras, .npz or .pt)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
]


def prefix(path: str) -> str:
    """The prefix of the TensorFlow V2 checkpoint that a path means.

    Args:
        path: a prefix; its `.index`, a `.data-…` or `.meta`; a SavedModel folder; a folder with a `checkpoint` file.

    Raises:
        NotFoundError: nothing is there, or no checkpoint.
        UnsupportedError: something else is there, which the message names.
        DamagedError: a folder's state file is damaged, or a file is empty.
        StorageError: the operating system refused.
    """
    with errors.files(path):
        return _prefix(path)


def _prefix(path: str) -> str:
    if not path:
        raise NotFoundError("no such checkpoint", path="''")
    if os.path.isfile(path + ".index"):
        return path  # as in TensorFlow, whatever else has the bare name
    if os.path.isdir(path):
        return _of_folder(path)
    for candidate in _stripped(path):
        if os.path.isfile(candidate + ".index"):
            return candidate
    if os.path.isfile(path):
        raise _explain(path)
    if ".data-" in os.path.basename(path) or path.endswith(".index"):
        raise NotFoundError("no such file", path=path)
    raise NotFoundError("no such checkpoint", path=path, hint=_neighbour(path))


def _stripped(path: str) -> Iterator[str]:
    folder, base = os.path.split(path)
    for ending in (".index", ".meta"):
        if base.endswith(ending):
            yield os.path.join(folder, base[: -len(ending)])
    stem, dot, rest = base.rpartition(".data-")
    if dot and rest.replace("-of-", "").isdigit():
        yield os.path.join(folder, stem)


def _of_folder(folder: str) -> str:
    saved = os.path.join(folder, "variables", "variables")
    if os.path.isfile(saved + ".index"):
        return saved
    known = state.read(folder)
    if known is None:
        found = sorted(name[: -len(".index")] for name in os.listdir(folder) if name.endswith(".index"))
        raise NotFoundError(
            "a folder without a checkpoint" if not found else "a folder without a 'checkpoint' file",
            path=folder,
            hint=f"name one: {', '.join(found[:3])}" if found else None,
        )
    if not os.path.isfile(known.latest + ".index"):
        if os.path.isfile(known.latest):
            raise _explain(known.latest)
        raise NotFoundError(
            "its 'checkpoint' file names a checkpoint that is not there", path=folder, found=known.latest
        )
    return known.latest


def _explain(path: str) -> CkptSurgeonError:
    """Why a file that exists is no checkpoint that can be opened."""
    with open(path, "rb") as file:
        head = file.read(512)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if path.endswith(".index") or ".data-" in os.path.basename(path):
        return NotFoundError("the checkpoint's other files are not beside it", path=path)
    if not head:
        return DamagedError("an empty file", path=path)
    if tail == MAGIC:
        return UnsupportedError(
            "a TensorFlow V1 checkpoint", path=path, expected="a V2 checkpoint (.index and .data files)"
        )
    for start, kind in _OTHERS:
        if head.startswith(start):
            return UnsupportedError(kind, path=path, expected="a TensorFlow V2 checkpoint")
    return UnsupportedError("not a checkpoint of a known format", path=path, found=f"first bytes {head[:8].hex()}")


def _neighbour(path: str) -> str | None:
    folder, base = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return f"there is no folder {folder}"
    names = {name[: -len(".index")] for name in os.listdir(folder or ".") if name.endswith(".index")}
    return errors.did_you_mean(base, names)
