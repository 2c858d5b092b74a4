"""Source: the one seam through which checkpoint files are opened and read.

Readers know a file only as a `Source`, and only `open_source` decides what kind of source a path gets. Today every
path is a local file; files that lie elsewhere are to be added there and nowhere else.

A source is a snapshot. Programs that write checkpoints replace files and never edit them, so an open source keeps its
bytes, and `is_current` reports whether the path still leads to them.
"""

from __future__ import annotations

import errno
import os
import stat

from .errors import DamagedError, UnsupportedError
from .lean import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Protocol

    from typing_extensions import Self
else:
    Protocol = object  # typing is slow to import


class Source(Protocol):
    """An open file of a checkpoint.

    Methods raise OSError where the operating system does; `errors.files` turns it into an error with the path.

    Attributes:
        path: the name under which it was opened.
    """

    path: str

    @property
    def size(self) -> int:
        """Number of bytes in the file."""

    @property
    def identity(self) -> object:
        """Equal for two sources exactly if both are the same version of the same file; usable after `close`."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range; fewer only at the end of the file."""

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from an offset; returns the number of bytes read, fewer only at the end of the file."""

    def read_ranges(self, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes of several (offset, length) ranges, in their order, as `read` returns them."""
        return [self.read(offset, length) for offset, length in ranges]

    def is_current(self) -> bool:
        """Whether the path still leads to this file, that is: it was not replaced or removed; usable after `close`."""

    def close(self) -> None:
        """Release the file; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalFile(Source):
    """A regular file of this machine.

    Args:
        path: the name under which it is known.
        fd: a descriptor that is open already and now belongs to this object; None: open the path.

    Raises:
        OSError: the path cannot be opened.
        DamagedError: not a regular file (a pipe or device could block forever).

    Attributes:
        fd: its descriptor, for what only local files can do (links, locks, child processes); -1 once closed.
        status: as `os.fstat` returned it when the file was opened.
    """

    __slots__ = ("fd", "path", "status")

    def __init__(self, path: str, fd: int | None = None) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if fd is None else fd
        self.status = os.fstat(self.fd)
        if not stat.S_ISREG(self.status.st_mode):
            self.close()
            raise DamagedError("not a regular file")

    @property
    def size(self) -> int:
        """As `Source.size`, asked of the operating system each time: a file may be cut although it should not be."""
        try:
            return os.fstat(self.fd).st_size
        except OSError as error:
            error.filename = self.path
            raise

    @property
    def identity(self) -> object:
        """As `Source.identity`: device and inode."""
        return self.status.st_dev, self.status.st_ino

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`."""
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as error:
            error.filename = self.path  # the operating system knows the descriptor only
            raise
        return data if len(data) == length else self._read_on(data, offset, length)

    def _read_on(self, data: bytes, offset: int, length: int) -> bytes:
        """The rest of a range: one call returns at most 2 GiB less a page."""
        parts = [data]
        while parts[-1] and (length := length - len(parts[-1])):
            offset += len(parts[-1])
            parts.append(os.pread(self.fd, length, offset))
        return b"".join(parts)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """As `Source.read_into`."""
        try:
            done = count = os.preadv(self.fd, [buffer], offset)
            while count and done < len(buffer):
                count = os.preadv(self.fd, [memoryview(buffer)[done:]], offset + done)
                done += count
        except OSError as error:
            error.filename = self.path
            raise
        return done

    def is_current(self) -> bool:
        """As `Source.is_current`."""
        try:
            return os.path.samestat(os.stat(self.path), self.status)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise

    def close(self) -> None:
        """As `Source.close`."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):  # nothing was written to it
                os.close(fd)


def open_source(path: str) -> Source:
    """Open a file of a checkpoint for reading.

    Raises:
        OSError: the path cannot be opened.
        DamagedError: not a regular file (a pipe or device could block forever).
    """
    return LocalFile(path)


# What `stat` says where nothing is. Any other error is one of the system, which must not pass for an absent file.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def kind_at(path: str) -> int:
    """The type of what a path leads to, as `stat.S_IFMT` gives it; 0 if nothing is there.

    Raises:
        OSError: the operating system cannot tell.
    """
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise
    except ValueError:  # no path has a zero byte
        return 0


def is_taken(path: str) -> bool:
    """Whether a name exists, be it a broken link. Unlike os.path.lexists, raises OSError if the system cannot tell."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    except ValueError:  # no path has a zero byte
        return False
    return True


def is_file(path: str) -> bool:
    """Whether a path leads to a regular file. Unlike os.path.isfile, raises OSError if the system cannot tell."""
    return kind_at(path) == stat.S_IFREG


def is_folder(path: str) -> bool:
    """Whether a path leads to a folder. Unlike os.path.isdir, raises OSError if the system cannot tell."""
    return kind_at(path) == stat.S_IFDIR


def size_of(path: str) -> int:
    """The size of the file at a path, without opening it.

    Raises:
        OSError: there is no such file.
    """
    return os.stat(path).st_size


def local(source: Source) -> LocalFile:
    """A source as a local file, for what needs its descriptor.

    Raises:
        UnsupportedError: it is not a local file.
    """
    if not isinstance(source, LocalFile):
        raise UnsupportedError("not a local file", path=source.path, hint="copy it to this machine first")
    return source
