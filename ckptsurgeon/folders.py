"""Publishes what is a folder, or is made in one: staged in a private folder next to its place, then one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

from .attributes import keep as keep_attributes
from .errors import NotFoundError, RefusedError
from .publish import Lock, Staging, clear, fsync_all, held_signals, overtaken, sync_after_commit
from .source import is_taken

_PRIVATE = ".ckptsurgeon-tmp"
_OLD = "old"  # the folder that is being replaced, in the private folder
_INDEX = os.path.join("variables", "variables.index")  # what an edit in place of a SavedModel locks


@contextlib.contextmanager
def private_folder(out: str, wait: float) -> Iterator[str]:
    """Make a folder next to `out` that only this user may enter, and lock it; what a crash left there is removed.

    Whoever leaves it with an error need not clean up; otherwise `discard` removes it.

    Args:
        out: the name of what will be published.
        wait: seconds to wait for another process.

    Yields:
        The path of the folder.

    Raises:
        BusyError: another process is writing the same result.
        OSError, StorageError: the operating system refused.
    """
    private = f"{out}{_PRIVATE}"
    with _locked_folder(private, wait):
        try:
            yield private
        except BaseException:
            discard(private)
            raise


def _locked_folder(path: str, wait: float) -> Lock:
    while True:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if os.path.islink(path) or not os.path.isdir(path):
                with contextlib.suppress(RefusedError):  # by now it is a folder
                    clear(path, wait)  # planted, or what another writer of a file with this name stages
                continue
            with contextlib.suppress(NotFoundError), Lock(path, wait):
                _empty(path)
            continue
        with contextlib.suppress(NotFoundError):  # another process was faster, and took it for a leftover
            try:
                return Lock(path, wait)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                raise


def discard(private: str) -> None:
    """Remove the private folder, if possible; the next run removes what is left."""
    with contextlib.suppress(OSError):  # `ignore_errors` ignores only some
        shutil.rmtree(private, ignore_errors=True)


def _empty(private: str) -> None:
    """Remove what a crash left, but bring back the old folder if it has no other name."""
    final, old = private.removesuffix(_PRIVATE), os.path.join(private, _OLD)
    if is_taken(old) and not is_taken(final):
        os.rename(old, final)
    shutil.rmtree(private)


def keep_permissions(old: str, new: str) -> None:
    """Give a new file, or all folders and files of a new folder, the permissions of those that they replace.

    Args:
        old: what is replaced; what has no counterpart in it is left as it is.
        new: the file or folder, staged.
    """
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(new) for name in ("", *names)]
    for path in paths or [new]:
        like = os.path.normpath(os.path.join(old, os.path.relpath(path, new)))
        if not os.path.islink(path) and os.path.exists(like):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                keep_attributes(like, fd)
            finally:
                os.close(fd)


def sync_all(staged: str) -> None:
    """Wait until a staged file, or all of a staged folder, is on the disk."""
    folders = [(folder, names) for folder, _, names in os.walk(staged)]
    fsync_all([os.path.join(folder, name) for folder, names in folders for name in ("", *names)] or [staged])


@contextlib.contextmanager
def locked(out: str, wait: float) -> Iterator[None]:
    """Lock what is going to be replaced, if anything: another process may be editing a SavedModel in place.

    Raises:
        BusyError: another process is writing it.
    """
    with ExitStack() as stack:
        if os.path.exists(out):
            stack.enter_context(Lock(out, wait))
            if os.path.isfile(index := os.path.join(out, _INDEX)):
                stack.enter_context(Lock(index, wait))
        yield


def publish(staged: str, out: str, replaces: bool, sync: bool, warnings: list[str]) -> bool:
    """Move a finished folder to its place. On Linux a reader sees either the old folder or the new one.

    Args:
        staged: the folder, in a private folder, which may get what is replaced.
        out: its place.
        replaces: whether something is there that is replaced, which the caller has `locked`.
        sync: whether to wait until the name is on the disk.
        warnings: gets a line if that failed.

    Returns:
        Whether a power cut cannot undo it any more; if it can, the private folder must stay.

    Raises:
        BusyError: another process saved there.
        OSError: the operating system refused; the old folder is unharmed.
    """
    with held_signals():
        if not replaces:
            if not _renamed(staged, out, _NO_REPLACE):
                if is_taken(out):  # a plain rename would replace an empty folder
                    raise overtaken(out)
                os.rename(staged, out)
        elif not _renamed(staged, out, _EXCHANGE):
            old = os.path.join(os.path.dirname(staged), _OLD)  # no folder has the name for an instant
            os.rename(out, old)
            try:
                os.rename(staged, out)
            except BaseException:
                os.rename(old, out)
                raise
        return sync_after_commit(Staging(sync), out, warnings)


_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE and RENAME_EXCHANGE of linux/fs.h


def _renamed(one: str, other: str, how: int) -> bool:
    """Rename in a way that Linux has; return whether it worked."""
    import ctypes

    here = -100  # AT_FDCWD
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), how) == 0
