"""PyTorch files are read and never written: the error that says so, with the command that makes a file to change."""

from __future__ import annotations

import os

from ...errors import RefusedError


def not_written(path: str) -> RefusedError:
    """The error that a PyTorch file cannot be changed.

    Args:
        path: of the file that was to be changed, or whose format a new file was to have.
    """
    import shlex

    target = os.path.splitext(path)[0] + ".safetensors"
    line = f"ckptsurgeon convert {shlex.quote(path)} {shlex.quote(target)}"
    return RefusedError("PyTorch files are read, and never written", path=path, hint=f"convert it first: {line}")
