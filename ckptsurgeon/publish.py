"""Makes a finished result visible: stage, fsync, one rename, fsync the folder; also locks. Independent of formats.

Staged files lie next to their final place under names that no reader uses, so that a crash at any moment leaves either
the old result or the new one. A writer locks (flock) the file that it will replace, not a lock file, and then checks
that the path still names that file. Readers that have a replaced file open keep its bytes.
"""

from __future__ import annotations

import errno
import os
import stat

from .attributes import PRIVATE
from .attributes import keep as keep_attributes
from .errors import BusyError, RefusedError, StorageError, files
from .lean import remembered, signal, suppress
from .locking import RUN as RUN
from .locking import Lock as Lock
from .locking import clear as clear
from .locking import drive as drive
from .locking import end_drive as end_drive
from .locking import staging_lock as staging_lock
from .writing import Appender as Appender
from .writing import check_size as check_size
from .writing import nameless_file as nameless_file
from .writing import write_all as write_all
from .writing import write_whole as write_whole

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


def overtaken(path: str) -> BusyError:
    """The error of a writer that another process has overtaken: it saved the checkpoint that was to be replaced."""
    what = "another process saved it in the meantime"
    return BusyError(what, path=path, hint="nothing was changed; try again")


class held_signals:
    """Delays Ctrl-C and `kill` until the end of a block."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def create(self, path: str, like: int | str | None = None) -> int:
        """Make a new empty file and return its descriptor, open for writing.

        Args:
            path: its name.
            like: the file (path or descriptor) whose permissions it gets; None: the usual ones of a new file.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o666 if like is None else PRIVATE)
        try:
            self.made(path, os.fstat(fd))
            if like is not None:
                keep_attributes(like, fd)
        except BaseException:
            os.close(fd)
            if not (self._made and self._made[-1][0] == path):
                os.unlink(path)  # made a moment ago, but `undo` does not know it
            raise
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
        with suppress(OSError):  # the next writer removes it
            os.unlink(source)

    def keep(self, paths: Iterable[str]) -> None:
        """The commit of several files: those at these paths are not undone any more."""
        kept = set(paths)
        self._made = [(path, status) for path, status in self._made if path not in kept]

    def undo(self) -> None:
        """Remove all files made, as far as the operating system allows: the error that led here is being raised."""
        with held_signals():
            while self._made:
                path, status = self._made.pop()
                with suppress(OSError):  # the next writer removes it
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


def _new_pool(pid: int) -> ThreadPoolExecutor:
    """The threads of a process for `fsync_all`; a forked child needs its own. Starting them takes milliseconds."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=8)


_pool = remembered(_new_pool, 1 << 6)


def remove(path: str, only: os.stat_result | None = None) -> bool:
    """Remove a name; a missing one is not an error.

    Args:
        path: the name; a symbolic link itself is removed, not its target.
        only: remove the name only if it names this file.

    Returns:
        Whether the name existed and has been removed.
    """
    try:
        if only is not None and not os.path.samestat(os.lstat(path), only):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def write_file(path: str, data: bytes | Iterable[bytes], sync: bool = True, warnings: list[str] | None = None) -> None:
    """Replace or create the file at `path`, so that a reader sees either the old bytes or the new ones.

    Args:
        path: the file; a symbolic link is replaced by a file. An existing file's permissions are kept.
        data: its bytes, whole or in parts.
        sync: wait until the bytes are on the disk.
        warnings: gets a line if the file was written, but its name may not survive a power cut; None: that is an error.

    Raises:
        StorageError, NotFoundError: the operating system refused; the old file is unharmed.
    """
    staging = Staging(sync)
    temporary = f"{path}.ckptsurgeon-tmp"
    with files(path):
        # Another writer of the same file waits until this one is in place.
        own = staging_lock(temporary, _PATIENCE, path if os.path.isfile(path) else None)
        try:
            staging.made(temporary, own.status)
            write_whole(own.fd, data, sync)
            with held_signals():
                staging.rename(temporary, path)
                sync_after_commit(staging, path, warnings)
        except BaseException:
            staging.undo()
            raise
        finally:
            own.release()


def sync_after_commit(staging: Staging, path: str, warnings: list[str] | None) -> bool:
    """Wait until the name of a published file is on the disk. The file is in place even if that fails.

    Args:
        staging: syncs, if that is wanted.
        path: the file.
        warnings: gets a line if it failed.

    Returns:
        Whether it succeeded. If not, a power cut may bring back what was replaced, which must therefore stay.

    Raises:
        StorageError: it failed, and there is no list for warnings.
    """
    try:
        staging.sync(os.path.dirname(path) or ".")
    except OSError as error:
        what = f"written, but a power cut may undo it: the folder was not synced: {(error.strerror or '').lower()}"
        if warnings is None:
            raise StorageError(what, path=path) from error
        warnings.append(f"{path}: {what}")
        return False
    return True
