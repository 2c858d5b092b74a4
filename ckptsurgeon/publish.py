"""Makes a finished result visible: stage, fsync, one rename, fsync the folder; also locks. Independent of formats.

Staged files lie next to their final place under names that no reader uses, so that a crash at any moment leaves either
the old result or the new one. A writer locks (flock) the file that it will replace, not a lock file, and then checks
that the path still names that file. Readers that have a replaced file open keep its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat

from .errors import BusyError, RefusedError, files
from .locking import Lock as Lock
from .locking import staging_lock as staging_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

# Errors of file systems without hard links, or without links between two folders, or with too many links.
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
KEPT = ".ckptsurgeon"  # hidden folder next to a checkpoint, for versions kept by `--backup`; see formats.kept.store
BACKUP = "CKPTSURGEON_BACKUP"  # environment variable: 1 turns `--backup` on
_PATIENCE = 30.0  # seconds that `write_file` waits for another writer of the same file
_BLOCK = 1 << 18  # bytes written at a time, few enough to stay in the processor's cache
_WRITEBACK = 1 << 26  # bytes after which the disk begins to write what was copied, while more is copied


def overtaken(path: str) -> BusyError:
    """The error of a writer that another process has overtaken: it saved the checkpoint that was to be replaced."""
    what = "another process saved it in the meantime"
    return BusyError(what, path=path, hint="nothing was changed; try again")


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

    Each is removed only while it names the file that was made: another process may have saved there in the meantime.

    Args:
        sync: whether `sync` and `rename` wait until the bytes are on the disk. Without it, a result survives a killed
            process, but not a power failure.
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
        """Create a hard link to a file.

        Raises:
            OSError: the file system has no hard links, or the paths are on different file systems.
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
        """Remove all files made."""
        with held_signals():
            while self._made:
                path, status = self._made.pop()
                remove(path, only=status)


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
        own = staging_lock(temporary, _PATIENCE)  # another writer of the same file waits until this one is in place
        try:
            staging.made(temporary, own.status)
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
