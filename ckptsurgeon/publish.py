"""Make a finished result visible: stage under other names, fsync, one rename, fsync the folder. Locks. Knows no format.

Staged files lie next to their final place under names that nobody reads, so that a crash at any moment leaves either
the old result or the new one. A writer locks the file that it will replace (flock), not a lock file, and then checks
whether the path still names that file. What is replaced keeps its bytes for those who have it open.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time

from .errors import BusyError, RefusedError, StorageError, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

# Errors of file systems without hard links, or without links between two folders, or with too many links.
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_POLL = 0.02  # seconds between two tries for a lock
_PATIENCE = 30.0  # seconds that `write_file` waits for another writer of the same file
_BLOCK = 1 << 18  # bytes written at a time, few enough to stay in the processor's cache
_WRITEBACK = 1 << 26  # bytes after which the disk begins to write what was copied, while more is copied


class Lock:
    """An exclusive lock on the file at `path`, as long as the path names that file.

    Args:
        path: the file; a symbolic link locks its target.
        wait: seconds to wait for another holder.
        create: make an empty file if there is none.

    Raises:
        BusyError: another process held it all the time.
        NotFoundError: there is no such file.
    """

    def __init__(self, path: str, wait: float, create: bool = False) -> None:
        import fcntl

        self.path = path
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
                if self.holds():
                    return
            except OSError as error:
                self.release()
                raise StorageError(f"cannot be locked: {error.strerror}", path=path) from error
            except BaseException:
                self.release()
                raise
            self.release()  # somebody replaced the file before we had the lock

    def holds(self) -> bool:
        """Whether the path still names the file that is locked."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class held_signals:
    """A block that Ctrl-C and `kill` do not interrupt: they come after it."""

    def __enter__(self) -> None:
        import signal

        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import signal

        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def staging_lock(path: str, wait: float) -> Lock:
    """Lock an empty staging file of our own, made if it is missing; it bars other writers of the same result.

    Args:
        path: its name, which nobody but us uses.
        wait: seconds to wait for another writer.

    Raises:
        BusyError: another process held it all the time.
    """
    while True:
        lock = Lock(path, wait, create=True)
        try:
            with files(path):
                if os.fstat(lock.fd).st_nlink == 1:
                    os.ftruncate(lock.fd, 0)
                    return lock
                os.unlink(path)  # a crash just after the commit left it: the file is published under its final name
        except BaseException:
            lock.release()
            raise
        lock.release()


class Staging:
    """Names made on the way to a publication, which are removed again unless it is committed.

    Each is removed only while it names the file that was made: another process may have saved there in the meantime.

    Args:
        sync: whether `sync` and `rename` wait until the bytes are on the disk. Without it a result is safe against a
            killed process, not against a power cut.
    """

    def __init__(self, sync: bool = True) -> None:
        self.sync_wanted = sync
        self._made: list[tuple[str, os.stat_result]] = []
        self._begun: Future[None] | None = None

    def made(self, path: str, status: os.stat_result) -> None:
        """Take note of a name, and the file that it was given to; it goes if the publication fails."""
        self._made.append((path, status))

    def create(self, path: str) -> int:
        """A new empty file, open for writing."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.made(path, os.fstat(fd))
        return fd

    def link(self, source: str, path: str) -> None:
        """A second name for a file.

        Raises:
            OSError: not on this file system, or across two.
        """
        source = os.path.realpath(source)
        status = os.stat(source)
        os.link(source, path)
        self.made(path, status)

    def move(self, source: str, path: str) -> None:
        """Another name for a staged file, where the file system has no links; nothing may have the name yet.

        Raises:
            OSError: as the operating system says.
        """
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        status = os.stat(source)
        os.rename(source, path)
        self.made(path, status)

    def sync(self, path: str) -> None:
        """Wait until a file, or a folder's names, are on the disk."""
        if self.sync_wanted:
            fsync(path)

    def begin_sync(self, fd: int) -> None:
        """Let the disk begin with what was written to an open file, in a thread, while more is written."""
        if self.sync_wanted and (self._begun is None or self._begun.done()):
            self.finish_sync()
            self._begun = _pool(os.getpid()).submit(os.fsync, fd)

    def finish_sync(self) -> None:
        """Wait for what `begin_sync` began, before the file is closed.

        Raises:
            OSError: a sync failed; later calls would not report it again.
        """
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.result()

    def rename(self, source: str, path: str) -> None:
        """The commit: `source` takes the place of `path`. From here on nothing is undone.

        Raises:
            RefusedError: a device or a pipe stands there.
        """
        _check_replaceable(path)
        os.replace(source, path)
        self._made.clear()

    def put(self, source: str, path: str) -> None:
        """The commit where nothing may be replaced: `source` gets the name `path`. From here on nothing is undone.

        Raises:
            FileExistsError: something has that name.
        """
        try:
            os.link(source, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self.move(source, path)
            self._made.clear()
            return
        self._made.clear()
        with contextlib.suppress(OSError):  # the next writer removes it
            os.unlink(source)

    def undo(self) -> None:
        """Remove what was made."""
        with held_signals():
            while self._made:
                path, status = self._made.pop()
                remove(path, only=status)


def _check_replaceable(path: str) -> None:
    """Whether a new file may take the place of what stands at a path: a file, a link, a folder, or nothing.

    Raises:
        RefusedError: it may not.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing is there, or the rename will fail with the reason
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise RefusedError("is a device or a pipe, which a file cannot replace", path=path, hint="choose another name")


def fsync(path: str) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_all(paths: Iterable[str]) -> None:
    """`fsync` of many paths at once: a journalling file system commits them together, which one by one it cannot."""
    for done in [_pool(os.getpid()).submit(fsync, path) for path in dict.fromkeys(paths)]:
        done.result()


@functools.cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """The threads of this process for `fsync_all`; a forked child needs its own. To start them takes milliseconds."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=8)


def remove(path: str, only: os.stat_result | None = None) -> bool:
    """Remove a name; a missing one is not an error.

    Args:
        path: the name; of a symbolic link, the link.
        only: remove it only while it names this file.

    Returns:
        Whether it was there and is gone.
    """
    try:
        if only is not None and not os.path.samestat(os.stat(path), only):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: a single write may take only a part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Appender:
    """Writes at the end of an open file, and lets the disk begin while more is written.

    Args:
        fd: open for writing, empty.
        staging: that syncs it.

    Attributes:
        size: bytes that were taken.
    """

    def __init__(self, fd: int, staging: Staging) -> None:
        self.size = 0
        self._fd = fd
        self._staging = staging
        self._pending: list[bytes] = []  # variables may be small, and are written together
        self._held = self._begun = 0

    def append(self, data: bytes) -> None:
        """Take bytes.

        Raises:
            OSError: they could not be written.
        """
        self._pending.append(data)
        self._held += len(data)
        self.size += len(data)
        if self._held >= _BLOCK:
            self.flush()
            if self.size - self._begun >= _WRITEBACK:
                self._begun = self.size
                self._staging.begin_sync(self._fd)

    def flush(self) -> None:
        """Hand all bytes to the operating system.

        Raises:
            OSError: it refused.
        """
        write_all(self._fd, self._pending[0] if len(self._pending) == 1 else b"".join(self._pending))
        self._pending, self._held = [], 0


def write_file(path: str, data: bytes | Iterable[bytes], sync: bool = True) -> None:
    """Replace the file at `path`, or make it, so that a reader sees the old bytes or the new ones.

    Args:
        path: the file; a symbolic link is replaced by a file.
        data: its bytes, or parts of them in order.
        sync: wait until they are on the disk.

    Raises:
        StorageError, NotFoundError: the operating system refused; the old file is unharmed.
    """
    staging = Staging(sync)
    temporary = f"{path}.ckptsurgeon-tmp"
    with files(path):
        own = staging_lock(temporary, _PATIENCE)  # another writer of the same file waits until this one is in place
        try:
            staging.made(temporary, os.fstat(own.fd))
            for part in (data,) if isinstance(data, bytes) else data:
                write_all(own.fd, part)
            if sync:
                os.fsync(own.fd)
            with held_signals():
                staging.rename(temporary, path)
                staging.sync(os.path.dirname(path) or ".")
        except BaseException:
            staging.undo()
            raise
        finally:
            own.release()


def replace_folder(staged: str, final: str) -> None:
    """Move a finished folder to its place, replacing what is there. On Linux a reader sees the old or the new one.

    Raises:
        StorageError: the operating system refused; the old folder is unharmed.
    """
    import shutil

    parent = os.path.dirname(final) or "."
    with files(final), held_signals():
        if not os.path.lexists(final):
            os.rename(staged, final)
        else:
            if not _exchanged(staged, final):
                retired = f"{final}.ckptsurgeon-old"  # for an instant the name is gone: no other way on this system
                os.rename(final, retired)
                os.rename(staged, final)
                os.rename(retired, staged)
            shutil.rmtree(staged) if not os.path.islink(staged) else os.unlink(staged)
        fsync(parent)


def _exchanged(one: str, other: str) -> bool:
    """Exchange two names in one step, as Linux can."""
    import ctypes

    exchange = 2  # RENAME_EXCHANGE of linux/fs.h
    here = -100  # AT_FDCWD
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
