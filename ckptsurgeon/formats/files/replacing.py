"""Replaces or creates a single-file checkpoint by one rename. Independent of the format."""

from __future__ import annotations

import contextlib
import os

from ... import errors
from ...errors import RefusedError
from ...publish import (
    Appender,
    Lock,
    Staging,
    check_size,
    held_signals,
    overtaken,
    remove,
    staging_lock,
    sync_after_commit,
    write_all,
)
from ...source import is_folder, is_taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Fill = Callable[["Output"], None]
    Prove = Callable[[str], None]


class Output:
    """A file that is being written; errors of the operating system name its path.

    Args:
        path: of the file.
        fd: descriptor of the empty file, open for writing.
        staging: syncs the file.
    """

    def __init__(self, path: str, fd: int, staging: Staging) -> None:
        self.path = path
        self._fd = fd
        self._appender = Appender(fd, staging.begin_sync)

    @property
    def size(self) -> int:
        """Number of bytes written so far."""
        return self._appender.size

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        with errors.files(self.path):
            self._appender.append(data)

    def patch(self, at: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        self.flush()
        with errors.files(self.path):
            os.lseek(self._fd, at, os.SEEK_SET)
            write_all(self._fd, data)
            os.lseek(self._fd, self.size, os.SEEK_SET)

    def flush(self) -> None:
        """Write the buffered bytes to the file."""
        with errors.files(self.path):
            self._appender.flush()


def save_as(out: str, fill: Fill, force: bool, sync: bool, wait: float, prove: Prove | None = None) -> list[str]:
    """Write the file `out`.

    Args:
        out: path of the file.
        fill: writes the bytes of the file.
        force: replace an existing file.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.
        prove: as in `replace`.

    Returns:
        Warnings.

    Raises:
        RefusedError: `out` already exists, and `force` is not set; or a TensorFlow V2 checkpoint has this name and
            would hide the new file.
        BusyError: another process is writing the file.
        StorageError: the operating system refused; an old file is unharmed.
    """
    if not os.path.basename(out) or "\0" in out or is_folder(out):
        raise RefusedError("no checkpoint can have this name", path=repr(out), expected="a file")
    if is_taken(out + ".index"):
        raise RefusedError("a TensorFlow checkpoint has this name already", path=out, hint="choose another")
    if not is_taken(out):
        return replace(out, fill, None, sync, wait, prove)
    if not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    with Lock(out, wait) as lock:
        return replace(out, fill, lock, sync, wait, prove)


def replace(path: str, fill: Fill, lock: Lock | None, sync: bool, wait: float, prove: Prove | None = None) -> list[str]:
    """Replace a locked file, or create a new one if `lock` is None.

    Args:
        path: of the file.
        fill: writes its bytes.
        lock: on the file to be replaced, whose permissions are kept.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.
        prove: gets the name under which the result is staged, and raises if it is not what was planned.

    Returns:
        Warnings.

    Raises:
        BusyError: another process saved in the meantime; nothing was changed.
        StorageError: the operating system refused; the old file is unharmed.
    """
    staging = Staging(sync)
    temporary = f"{path}.ckptsurgeon-tmp"
    folder = os.path.dirname(path) or "."
    warnings: list[str] = []
    with errors.files(folder):
        own = staging_lock(temporary, wait, lock.fd if lock else None)
        staging.made(temporary, own.status)
    try:
        output = Output(temporary, own.fd, staging)
        fill(output)
        output.flush()
        with errors.files(temporary):
            check_size(own.fd, output.size)
            staging.finish_sync()
            if sync:
                os.fsync(own.fd)
        if prove is not None:
            prove(temporary)
        with errors.files(path):
            if lock:
                lock.announce(os.fstat(own.fd))
            if not (lock.holds() if lock else not is_taken(path)):
                raise overtaken(path)
        with held_signals(), errors.files(path):
            if lock:
                staging.rename(temporary, path)
            else:
                _put(staging, temporary, path)
            sync_after_commit(staging, path, warnings)
    except BaseException:
        with contextlib.suppress(OSError):  # the disk failure is already being raised
            staging.finish_sync()
        staging.undo()
        raise
    finally:
        own.release()
    return warnings


def _put(staging: Staging, temporary: str, path: str) -> None:
    """Commit where nothing may be replaced."""
    try:
        staging.put(temporary, path)
    except FileExistsError:
        raise overtaken(path) from None


def put_back(path: str, kept: str, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Rename a kept file back to its place, a locked file, or a file of the set whose main file is locked.

    Returns:
        Warnings.

    Raises:
        BusyError: another process saved in the meantime; nothing was changed.
        StorageError: the operating system refused; nothing was changed.
    """
    if os.path.basename(path) != os.path.basename(lock.path):
        with Lock(path, wait) as own:
            own.before_replace = lock.before_replace
            return put_back(path, kept, own, sync, wait)
    staging = Staging(sync)
    temporary = f"{path}.ckptsurgeon-tmp"
    warnings: list[str] = []
    with errors.files(path), staging_lock(temporary, wait) as own:  # nobody else stages, and no leftover stays
        try:
            staging.sync(kept)
            lock.announce(os.stat(kept))
            if not lock.holds():
                raise overtaken(path)
            with held_signals():
                staging.rename(kept, path)
                sync_after_commit(staging, path, warnings)
        finally:
            with contextlib.suppress(OSError):  # the next writer removes it
                remove(temporary, only=own.status)
    return warnings
