"""Locks on files: one writer at a time, without lock files. Knows no format."""

from __future__ import annotations

import os
import stat
import time

from . import attributes
from .errors import BusyError, NotFoundError, RefusedError, StorageError, files
from .lean import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_POLL = 0.02  # seconds between two tries for a lock


class Lock:
    """An exclusive lock on the file or folder at `path`, valid as long as the path names that file.

    Args:
        path: the file; a symbolic link locks its target.
        wait: seconds to wait for another holder.
        fd: a descriptor that is open already and now belongs to this object; None: open the path.

    Raises:
        BusyError: another process held the lock all the time.
        NotFoundError: there is no such file, or `fd` is not the file that has this name any more.

    Attributes:
        before_replace: called with this lock, and the status of the file that is about to take the locked file's place;
            what it raises stops the operation.
    """

    def __init__(self, path: str, wait: float, fd: int | None = None) -> None:
        self.path = path
        self.before_replace: Callable[[Lock, os.stat_result], None] | None = None
        deadline = time.monotonic() + wait
        while True:
            with files(path):
                self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if fd is None else fd
            try:
                _flock(self.fd, path, deadline, wait)
                self.status = os.fstat(self.fd)
                if self.holds():
                    return
                if fd is not None:
                    raise NotFoundError("was replaced", path=path)
            except OSError as error:
                self.release()
                raise StorageError(f"cannot be locked: {(error.strerror or '').lower()}", path=path) from error
            except BaseException:
                self.release()
                raise
            self.release()  # another process replaced the file before we had the lock

    def holds(self) -> bool:
        """Return whether the path still names the locked file."""
        try:
            return os.path.samestat(os.stat(self.path), self.status)
        except FileNotFoundError:
            return False

    def announce(self, successor: os.stat_result) -> None:
        """Say that a finished file is about to be renamed over the locked one."""
        if self.before_replace is not None:
            self.before_replace(self, successor)

    def release(self) -> None:
        """Release the lock. A failing close is not an error: what was written has been synced before."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _flock(fd: int, path: str, deadline: float, wait: float) -> None:
    import fcntl

    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                what = f"another process is writing it, waited {wait:g} s"
                raise BusyError(what, path=path, hint="try again, or --wait longer") from None
            time.sleep(_POLL)


def staging_lock(path: str, wait: float, like: int | str | None = None) -> Lock:
    """Make an empty staging file and lock it; it bars other writers of the same result.

    The file is always a new one of this process: what a crash left under the name, or what somebody planted there (a
    link, a pipe, a file of somebody who could write to it later), is removed and never opened for writing.

    Args:
        path: its name, which nobody but this program uses.
        wait: seconds to wait for another writer.
        like: the file that it will replace (its path, or a descriptor), whose permissions it gets; None: the usual
            ones of a new file.

    Raises:
        BusyError: another process held it all the time.
        RefusedError: a folder has the name.
        StorageError: the operating system refused; nothing is left behind.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        clear(path, wait)
        try:
            with files(path):
                fd = os.open(path, flags, 0o666 if like is None else attributes.PRIVATE)
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                continue  # another writer was faster
            raise
        made = lock = None
        try:
            with files(path):
                made = os.fstat(fd)
                lock = Lock(path, wait, fd)
                if like is not None:
                    attributes.keep(like, fd)
            return lock
        except NotFoundError:
            if lock is None:
                continue  # another writer took it for a leftover before it was locked
            lock.release()
            like = None  # which is gone
        except BaseException:
            with suppress(OSError):  # the first error is being raised
                if made is None:
                    os.close(fd)
                if made is None or os.path.samestat(os.lstat(path), made):
                    os.unlink(path)
            if lock is not None:
                lock.release()
            raise


def clear(path: str, wait: float) -> None:
    """Remove what stands at the name of a staging file, unless another process is writing it.

    A name whose file also has another one was left by a crash just after the commit. It is removed without a lock:
    whoever holds that file locked, because it is to be replaced, would wait for itself otherwise.

    Args:
        path: the name.
        wait: seconds to wait for another writer.

    Raises:
        BusyError: another process held it all the time.
        RefusedError: a folder has the name.
        StorageError: the operating system refused.
    """
    with files(path), suppress(FileNotFoundError, NotFoundError):
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            raise RefusedError("a folder has the name of a temporary file", path=path, hint="remove it")
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            with Lock(path, wait):
                os.unlink(path)
        else:
            os.unlink(path)
