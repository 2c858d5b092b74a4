"""Finds safetensors checkpoints: a file, a set of files, or the one in a folder that has a usual name."""

from __future__ import annotations

from ...errors import UnsupportedError
from ...source import is_folder, open_source
from ..files import sets

ENDING = ".safetensors"
_USUAL = ("model", "diffusion_pytorch_model", "adapter_model")  # names that Hugging Face's libraries look for


def locate(path: str) -> list[str] | None:
    """The files of the safetensors checkpoint at a path: its index, if it has one, then the files with values.

    Args:
        path: a file, the index of a set, a part of a set, the name that the set would have as one file, or a folder.

    Returns:
        None if the path is not a safetensors checkpoint, or a folder without one of a usual name.

    Raises:
        DamagedError: a file of a set is missing, or the index is invalid or names a file outside its folder.
        UnsupportedError: a folder's file of a usual name is something else.
    """
    if not is_folder(path):
        return sets.find(path, ENDING, is_one)
    usual = sets.usual(path, _USUAL, ENDING)
    files = sets.find(usual, ENDING, is_one) if usual is not None else None
    if usual is not None and files is None:
        from .. import foreign

        raise foreign.explain(usual) or UnsupportedError("not a safetensors file", path=usual)
    return files


def is_one(path: str) -> bool:
    """Whether a file is a safetensors file, by its first bytes: a length of less than 2^40, and the start of JSON."""
    with open_source(path) as file:
        head = file.read(0, 16)
    return len(head) > 8 and not any(head[5:8]) and head[8:].lstrip(b" \t\r\n")[:1] == b"{"
