"""Finds PyTorch checkpoints: a file, a set of files with an index, or the usual one of a folder."""

from __future__ import annotations

from ...source import is_folder
from ..files import sets
from .archive import is_archive

# Names that transformers, diffusers and peft look for. Sets of files were only ever written with this ending.
ENDING = ".bin"
_USUAL = ("pytorch_model", "diffusion_pytorch_model", "adapter_model")


def locate(path: str) -> list[str] | None:
    """The files of the PyTorch checkpoint at a path: its index, if it has one, then the files with values.

    Args:
        path: a file, the index of a set, a part of a set, the name that the set would have as one file, or a folder.

    Returns:
        None if the path is not a PyTorch checkpoint that can be read.

    Raises:
        DamagedError: a file of a set is missing, or the index is invalid or names a file outside its folder.
    """
    if is_folder(path):
        usual = sets.usual(path, _USUAL, ENDING)
        return None if usual is None else locate(usual)
    files = sets.find(path, ENDING, is_archive)
    if files is None or not all(is_archive(file) for file in files if not sets.is_index(file, ENDING)):
        return None  # parts from before PyTorch 1.6 are whole pickles
    return files
