"""A checkpoint read from a pipe: kept in a file without a name, so that it never leaves a file behind."""

from __future__ import annotations

import os
import sys

from .. import errors
from ..checkpoint import CHUNK
from ..errors import UsageError
from ..publish import nameless_file, write_all

_spooled: list[int] = []  # the file descriptor, once stdin was read: stdin can be read only once


def spool(folder: str | None = None) -> str:
    """Keep the bytes of stdin, and return a path under which they can be opened any number of times.

    Args:
        folder: where to keep them; the folder for temporary files if it is None or not writable.

    Raises:
        UsageError: stdin is a terminal.
        StorageError: the operating system refused.
    """
    if not _spooled:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- is stdin, and nothing is piped into it")
        if folder is None or not os.access(folder, os.W_OK):
            import tempfile

            folder = tempfile.gettempdir()
        with errors.files(folder):
            fd = nameless_file(folder)
            while chunk := os.read(sys.stdin.fileno(), CHUNK):
                write_all(fd, chunk)
        _spooled.append(fd)
    return f"/dev/fd/{_spooled[0]}"


def is_spooled(path: str | None) -> bool:
    """Whether a path is one that `spool` returned."""
    return bool(_spooled) and path == f"/dev/fd/{_spooled[0]}"
