"""Makes a finished result visible: stage, fsync, one rename, fsync the folder; also locks. Independent of formats.

Staged files lie next to their final place under names that no reader uses, so that a crash at any moment leaves either
the old result or the new one. A writer locks (flock) the file that it will replace, not a lock file, and then checks
that the path still names that file. Readers that have a replaced file open keep its bytes.
"""

from __future__ import annotations

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

_POLL = 0.02  # seconds between two tries for a lock
_BLOCK = 1 << 18  # bytes written at a time, small enough to stay in the processor's cache
_WRITEBACK = 1 << 26  # bytes after which writing to the disk begins, while more is copied


class Lock:
    """An exclusive lock on the file at `path`, valid as long as the path names that file.

    Args:
        path: the file; a symbolic link locks its target.
        wait: seconds to wait for another holder.
        create: make an empty file if there is none.

    Raises:
        BusyError: another process held the lock all the time.
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
            self.release()  # another process replaced the file before we had the lock

    def holds(self) -> bool:
        """Return whether the path still names the locked file."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except FileNotFoundError:
            return False

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


class held_signals:
    """Delays Ctrl-C and `kill` until the end of a block."""

    def __enter__(self) -> None:
        import signal

        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import signal

        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class Staging:
    """Files made on the way to a publication; they are removed unless it is committed.

    Args:
        sync: whether `sync` and `rename` wait until the bytes are on the disk. Without it, a result survives a killed
            process, but not a power failure.
    """

    def __init__(self, sync: bool = True) -> None:
        self.sync_wanted = sync
        self._made: list[str] = []
        self._begun: Future[None] | None = None

    def made(self, path: str) -> str:
        """Note a path that is removed if the publication fails, and return it."""
        self._made.append(path)
        return path

    def create(self, path: str) -> int:
        """Create an empty file and return its descriptor, open for writing."""
        self.made(path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def link(self, source: str, path: str) -> None:
        """Create a hard link to a file.

        Raises:
            OSError: the file system has no hard links, or the paths are on different file systems.
        """
        os.link(os.path.realpath(source), path)
        self.made(path)

    def sync(self, path: str) -> None:
        """Wait until a file's bytes, or a folder's names, are on the disk."""
        if self.sync_wanted:
            fsync(path)

    def begin_sync(self, fd: int) -> None:
        """Start writing an open file's data to the disk, in a thread, while more is written."""
        if self.sync_wanted and (self._begun is None or self._begun.done()):
            self.finish_sync()
            self._begun = _pool(os.getpid()).submit(os.fsync, fd)

    def finish_sync(self) -> None:
        """Wait for the syncs started by `begin_sync`, before the file is closed.

        Raises:
            OSError: a sync failed; later calls would not report it again.
        """
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.result()

    def rename(self, source: str, path: str) -> None:
        """Commit: `source` takes the place of `path`. After this nothing is undone.

        Raises:
            RefusedError: `path` is a device or a pipe.
        """
        _check_replaceable(path)
        os.replace(source, path)
        self._made.clear()

    def undo(self) -> None:
        """Remove all files made."""
        with held_signals():
            while self._made:
                remove(self._made.pop())


def _check_replaceable(path: str) -> None:
    """Check that a new file may be renamed to a path: only a file, a link, a folder or nothing may be there.

    Raises:
        RefusedError: anything else is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # nothing is there, or the rename will fail and give the reason
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
    """Call `fsync` on many paths in parallel, so that a journalling file system can commit them together."""
    for done in [_pool(os.getpid()).submit(fsync, path) for path in dict.fromkeys(paths)]:
        done.result()


@functools.cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """The threads of a process for `fsync_all`; a forked child needs its own. Starting them takes milliseconds."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=8)


def remove(path: str, only: os.stat_result | None = None) -> bool:
    """Remove a name; a missing one is not an error.

    Args:
        path: the name; a symbolic link itself is removed, not its target.
        only: remove the name only if it names this file.

    Returns:
        Whether the name existed and has been removed.
    """
    try:
        if only is not None and not os.path.samestat(os.stat(path), only):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: a single `os.write` may write only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Appender:
    """Appends to an open file, and starts writing to the disk while more is appended.

    Args:
        fd: an empty file, open for writing.
        staging: syncs the file.

    Attributes:
        size: bytes appended.
    """

    def __init__(self, fd: int, staging: Staging) -> None:
        self.size = 0
        self._fd = fd
        self._staging = staging
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
                self._staging.begin_sync(self._fd)

    def flush(self) -> None:
        """Hand all bytes to the operating system.

        Raises:
            OSError: the operating system refused.
        """
        write_all(self._fd, self._pending[0] if len(self._pending) == 1 else b"".join(self._pending))
        self._pending, self._held = [], 0


def write_file(path: str, data: bytes | Iterable[bytes], sync: bool = True) -> None:
    """Replace or create the file at `path`, so that a reader sees either the old bytes or the new ones.

    Args:
        path: the file; a symbolic link is replaced by a file.
        data: its bytes, whole or in parts.
        sync: wait until the bytes are on the disk.

    Raises:
        StorageError, NotFoundError: the operating system refused; the old file is unharmed.
    """
    staging = Staging(sync)
    temporary = f"{path}.ckptsurgeon-tmp"
    with files(path):
        try:
            remove(temporary)
            fd = staging.create(temporary)
            try:
                for part in (data,) if isinstance(data, bytes) else data:
                    write_all(fd, part)
                if sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            with held_signals():
                staging.rename(temporary, path)
                staging.sync(os.path.dirname(path) or ".")
        except BaseException:
            staging.undo()
            raise


def replace_folder(staged: str, final: str) -> None:
    """Move a finished folder to its place, replacing an old one. On Linux a reader sees either the old or the new one.

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
                retired = f"{final}.ckptsurgeon-old"  # the name is missing for an instant; unavoidable on this system
                os.rename(final, retired)
                os.rename(staged, final)
                os.rename(retired, staged)
            shutil.rmtree(staged) if not os.path.islink(staged) else os.unlink(staged)
        fsync(parent)


def _exchanged(one: str, other: str) -> bool:
    """Exchange two names in one step, which Linux can do; return whether it worked."""
    import ctypes

    exchange = 2  # RENAME_EXCHANGE of linux/fs.h
    here = -100  # AT_FDCWD
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
