"""Locks on files: one writer at a time, without lock files. Knows no format.

A ring owns the checkpoints RING/<model>/model.ckpt-<step> as long as its driver holds the lock on RING/journal.jsonl.
Whoever locks such a checkpoint shares the lock on the journal: the lock is refused while a driver runs, and a driver
that starts in the meantime waits. The driver itself and its trainers are let through.
"""

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
_WAIT_FOR_STATUS = 0.5  # seconds; `ring status` holds the lock on a journal for microseconds

# The environment variable that names, to a trainer and what it starts, the journal of the run that they work for.
RUN = "CKPTSURGEON_RUN"
_CHECKPOINT, _JOURNAL = "model.ckpt-", "journal.jsonl"
_driven: list[str] = []  # the journals of the runs that this process drives


class Lock:
    """An exclusive lock on the file or folder at `path`, valid as long as the path names that file.

    Args:
        path: the file; a symbolic link locks its target.
        wait: seconds to wait for another holder.
        fd: a descriptor that is open already and now belongs to this object; None: open the path.

    Raises:
        BusyError: another process held the lock all the time, or the file belongs to a ring that is running.
        NotFoundError: there is no such file, or `fd` is not the file that has this name any more.

    Attributes:
        before_replace: called with this lock, and the status of the file that is about to take the locked file's place;
            what it raises stops the operation.
    """

    def __init__(self, path: str, wait: float, fd: int | None = None) -> None:
        self.path = path
        self.before_replace: Callable[[Lock, os.stat_result], None] | None = None
        self.fd, self._journal = -1 if fd is None else fd, -1
        try:
            self._journal = _share_journal(path)
            self._acquire(time.monotonic() + wait, wait, fd is None)
        except BaseException:
            self.release()
            raise

    def _acquire(self, deadline: float, wait: float, opens: bool) -> None:
        import fcntl

        while True:
            if opens:
                with files(self.path):
                    self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not _flock(self.fd, fcntl.LOCK_EX, deadline):
                    what = f"another process is writing it, waited {wait:g} s"
                    raise BusyError(what, path=self.path, hint="try again, or --wait longer")
                self.status = os.fstat(self.fd)
                if self.holds():
                    return
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise StorageError(f"cannot be locked: {reason}", path=self.path) from error
            if not opens:
                raise NotFoundError("was replaced", path=self.path)
            os.close(self.fd)  # another process replaced the file before we had the lock
            self.fd = -1

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
        descriptors = self.fd, self._journal
        self.fd = self._journal = -1
        for fd in descriptors:
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _flock(fd: int, how: int, deadline: float) -> bool:
    """Lock a file, waiting until the deadline for other holders; return whether that succeeded."""
    import fcntl

    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)


def drive(journal: str) -> None:
    """Let this process lock the checkpoints of the run whose journal it has locked."""
    _driven.append(os.path.realpath(journal))


def end_drive(journal: str) -> None:
    """Take back one `drive`."""
    _driven.remove(os.path.realpath(journal))


def _share_journal(path: str) -> int:
    """Share the lock on the journal of the ring that a checkpoint belongs to.

    Args:
        path: a file that is going to be locked.

    Returns:
        A descriptor that holds the lock; -1 if the file does not belong to a ring, or the ring is our own.

    Raises:
        BusyError: the ring is running.
    """
    if not os.path.basename(path).startswith(_CHECKPOINT):
        return -1
    ring = os.path.dirname(os.path.realpath(os.path.dirname(path) or "."))
    journal = os.path.realpath(os.path.join(ring, _JOURNAL))
    if journal in _driven or os.path.realpath(os.environ.get(RUN) or "/") == journal:
        return -1
    try:
        fd = os.open(journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # there is no ring
        return -1
    import fcntl

    try:
        if _flock(fd, fcntl.LOCK_SH, time.monotonic() + _WAIT_FOR_STATUS):
            return fd
    except OSError:  # a file system without locks, on which rings cannot run
        os.close(fd)
        return -1
    os.close(fd)
    hint = "stop the run first (Ctrl-C; it continues later), or write another checkpoint with -o"
    what, path = f"belongs to the run in {ring}, which is running", path.partition(".ckptsurgeon-tmp")[0]
    raise BusyError(what, path=path, hint=hint)


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
