"""Locks on files: one writer at a time, without lock files. Knows no format."""

from __future__ import annotations

import contextlib
import os
import time

from .errors import BusyError, StorageError, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_POLL = 0.02  # seconds between two tries for a lock


class Lock:
    """An exclusive lock on the file at `path`, valid as long as the path names that file.

    Args:
        path: the file; a symbolic link locks its target.
        wait: seconds to wait for another holder.
        create: make an empty file if there is none.

    Raises:
        BusyError: another process held the lock all the time.
        NotFoundError: there is no such file.

    Attributes:
        before_replace: called with this lock, and the status of the file that is about to take the locked file's place;
            what it raises stops the operation.
    """

    def __init__(self, path: str, wait: float, create: bool = False) -> None:
        import fcntl

        self.path = path
        self.before_replace: Callable[[Lock, os.stat_result], None] | None = None
        deadline = time.monotonic() + wait
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        while True:
            with files(path):
                self.fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
            try:
                while True:
                    try:
                        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() >= deadline:
                            what = f"another process is writing it, waited {wait:g} s"
                            raise BusyError(what, path=path, hint="try again, or --wait longer") from None
                        time.sleep(_POLL)
                self.status = os.fstat(self.fd)
                if self.holds():
                    return
            except OSError as error:
                self.release()
                raise StorageError(f"cannot be locked: {error.strerror}", path=path) from error
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
        """Release the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def staging_lock(path: str, wait: float) -> Lock:
    """Lock an empty staging file of our own, made if it is missing; it bars other writers of the same result.

    Args:
        path: its name, which no other program uses.
        wait: seconds to wait for another writer.

    Raises:
        BusyError: another process held it all the time.
    """
    while True:
        _remove_published(path)
        lock = Lock(path, wait, create=True)
        try:
            with files(path):
                if lock.status.st_nlink == 1:
                    os.ftruncate(lock.fd, 0)
                    return lock
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is being raised
                if lock.holds():
                    os.unlink(path)
            lock.release()
            raise
        lock.release()


def _remove_published(path: str) -> None:
    """Remove the name of a staging file that a crash left just after the commit: it is published under another name.

    Otherwise a process that holds the lock on that file, in order to replace it, would wait for itself.
    """
    with files(path), contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_nlink > 1:
            os.unlink(path)
