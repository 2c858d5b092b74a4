"""Writes to open files: all bytes of a call, in large pieces, and checked before they are published."""

from __future__ import annotations

import errno
import os

from .attributes import PRIVATE
from .lean import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BLOCK = 1 << 18  # bytes written at a time, few enough to stay in the processor's cache
_WRITEBACK = 1 << 26  # bytes after which the disk begins to write what was copied, while more is copied


def write_all(fd: int, data: bytes, at: int | None = None) -> None:
    """Write all of `data`: a single call of the operating system may write only a part.

    Args:
        fd: the file.
        data: the bytes.
        at: where in the file; None: at its current position.

    Raises:
        OSError: the operating system refused, or wrote nothing.
    """
    view = memoryview(data).cast("B")
    while view:
        count = os.write(fd, view) if at is None else os.pwrite(fd, view, at)
        if not count:
            raise OSError(errno.EIO, "nothing could be written")
        view = view[count:]
        at = None if at is None else at + count


def write_whole(fd: int, data: bytes | Iterable[bytes], sync: bool) -> None:
    """Write all bytes of an empty file, and check that the file system keeps them.

    Args:
        fd: the file.
        data: its bytes, whole or in parts.
        sync: wait until they are on the disk.

    Raises:
        OSError: the operating system refused.
    """
    size = 0
    for part in (data,) if isinstance(data, bytes) else data:
        write_all(fd, part)
        size += len(part)
    check_size(fd, size)
    if sync:
        os.fsync(fd)


def nameless_file(folder: str) -> int:
    """Open a new file that has no name, for reading and writing: nothing can be left behind."""
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, PRIVATE)
        except OSError:
            pass  # not supported by this file system: the file has a name for an instant
    path = os.path.join(folder, f".ckptsurgeon-tmp.{os.getpid()}")
    with suppress(FileNotFoundError):
        os.unlink(path)  # left by a crashed process with the same id
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    os.unlink(path)
    return fd


class Appender:
    """Appends to an open file, and starts writing to the disk while more is appended.

    Args:
        fd: an empty file, open for writing.
        begin_sync: starts writing the file's data to the disk, while more is appended.

    Attributes:
        size: bytes appended.
    """

    def __init__(self, fd: int, begin_sync: Callable[[int], None]) -> None:
        self.size = 0
        self._fd = fd
        self._begin_sync = begin_sync
        self._pending: list[bytes] = []  # small variables are written together
        self._held = self._begun = 0

    def append(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OSError: the bytes could not be written.
        """
        self._pending.append(data)
        self._held += len(data)
        self.size += len(data)
        if self._held >= _BLOCK:
            self.flush()
            if self.size - self._begun >= _WRITEBACK:
                self._begun = self.size
                self._begin_sync(self._fd)

    def flush(self) -> None:
        """Hand all bytes to the operating system.

        Raises:
            OSError: the operating system refused.
        """
        write_all(self._fd, self._pending[0] if len(self._pending) == 1 else b"".join(self._pending))
        self._pending, self._held = [], 0


def check_size(fd: int, size: int) -> None:
    """Check, before a file is published, that the file system holds as many bytes as were written.

    Raises:
        OSError: it does not.
    """
    if os.fstat(fd).st_size != size:
        raise OSError(errno.EIO, "the file system did not keep all that was written")
