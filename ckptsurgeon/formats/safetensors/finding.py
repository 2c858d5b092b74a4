"""Finds safetensors checkpoints: a file, a set of files, or the usual or only one of a folder."""

from __future__ import annotations

import os

from ...source import open_source
from ..files import sets

ENDING = ".safetensors"
_USUAL = ("model", "diffusion_pytorch_model", "adapter_model")  # names that Hugging Face's libraries look for


def locate(path: str) -> list[str] | None:
    """The files of the safetensors checkpoint at a path: its index, if it has one, then the files with values.

    Args:
        path: a file, the index of a set, a part of a set, the name that the set would have as one file, or a folder.

    Returns:
        None if the path is not a safetensors checkpoint, or a folder that holds several and none of the usual name.

    Raises:
        DamagedError: a file of a set is missing, or the index is invalid or names a file outside its folder.
    """
    return _in_folder(path) if os.path.isdir(path) else sets.find(path, ENDING, is_one)


def is_one(path: str) -> bool:
    """Whether a file is a safetensors file, by its first bytes: a length of less than 2^40, and the start of JSON."""
    with open_source(path) as file:
        head = file.read(0, 16)
    return len(head) > 8 and not any(head[5:8]) and head[8:].lstrip(b" \t\r\n")[:1] == b"{"


def _in_folder(folder: str) -> list[str] | None:
    usual = sets.usual(folder, _USUAL, ENDING)
    if usual is not None:
        return locate(usual) or [usual]
    found: list[list[str]] = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if (name.endswith(ENDING) or sets.is_index(name, ENDING)) and not any(path in files for files in found):
            found.append(locate(path) or [path])
    return found[0] if len(found) == 1 else None
