"""The error for attempts to write a PyTorch file, with a command that converts it to a writable format."""

from __future__ import annotations

import os

from ...errors import RefusedError


def not_written(path: str) -> RefusedError:
    """The error for a PyTorch file that cannot be written.

    Args:
        path: of the file that was to be changed or created in this format.
    """
    import shlex

    target = os.path.splitext(path)[0] + ".safetensors"
    line = f"ckptsurgeon convert {shlex.quote(path)} {shlex.quote(target)}"
    return RefusedError("PyTorch files are read, and never written", path=path, hint=f"convert it first: {line}")
