"""A checkpoint that comes through a pipe: kept in a file without a name, so that nothing of it can be left behind."""

from __future__ import annotations

import os
import sys

from .. import errors
from ..checkpoint import CHUNK
from ..errors import UsageError
from ..publish import remove, write_all

_spooled: list[int] = []  # the descriptor, once stdin was read: it can be read only once


def spool(folder: str | None = None) -> str:
    """A path under which the bytes of stdin can be opened as often as one likes.

    Args:
        folder: where they are kept; where temporary files are, if it is None or cannot be written.

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
            fd = _nameless(folder)
            while chunk := os.read(sys.stdin.fileno(), CHUNK):
                write_all(fd, chunk)
        _spooled.append(fd)
    return f"/dev/fd/{_spooled[0]}"


def is_spooled(path: str | None) -> bool:
    """Whether a path is the one under which the bytes of stdin can be opened."""
    return bool(_spooled) and path == f"/dev/fd/{_spooled[0]}"


def _nameless(folder: str) -> int:
    """A new file in a folder, open, that no name leads to."""
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            pass  # not on this file system: it gets a name for an instant
    path = os.path.join(folder, f".ckptsurgeon-tmp.stdin-{os.getpid()}")
    remove(path)  # of a crashed process of this number
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd
