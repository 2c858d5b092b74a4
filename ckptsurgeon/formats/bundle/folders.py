"""Writes SavedModel folders: staged as a whole in a private folder, then moved into place by one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from contextlib import ExitStack

from ... import errors
from ...attributes import keep as keep_attributes
from ...errors import ChangedError, NotFoundError, RefusedError
from ...publish import KEPT, Lock, Staging, fsync_all, held_signals, overtaken, sync_after_commit, write_file
from ...source import is_taken
from ..copying import chunks_of
from . import writing
from .reading import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...plan import Plan


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new SavedModel folder at `out`.

    Returns:
        Warnings.

    Raises:
        RefusedError: something exists at `out`, and `force` is not set.
        BusyError: another process is writing it, or has just written it.
        StorageError: the operating system refused; an existing folder is unharmed.
    """
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    assert bundle.folder is not None
    out = out.rstrip(os.sep)
    private = f"{out}.ckptsurgeon-tmp"
    with errors.files(out), _private_folder(private, wait):
        try:
            replaces = _check_free(out, force)
            staged = os.path.join(private, "new")
            warnings = _stage(plan, bundle, staged, link, sync, wait)
            if replaces and os.path.isdir(out):
                _keep_permissions(out, staged)
            if sync:
                folders = [(folder, names) for folder, _, names in os.walk(staged)]
                fsync_all([os.path.join(folder, name) for folder, names in folders for name in ("", *names)])
            is_durable = _publish(staged, out, replaces, sync, wait, warnings)
        except BaseException:
            _discard(private)
            raise
        if is_durable:  # otherwise a power cut may bring back the old folder, which is in there now
            _discard(private)
    return warnings


def _private_folder(path: str, wait: float) -> Lock:
    """Make a folder that only this user may enter, and lock it; what a crash left there is removed.

    Raises:
        BusyError: another process is writing the same result.
    """
    while True:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if os.path.islink(path) or not os.path.isdir(path):
                os.unlink(path)  # planted: no process of ours makes such a thing there
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


def _discard(private: str) -> None:
    """Remove the private folder, if possible; the next run removes what is left."""
    with contextlib.suppress(OSError):  # `ignore_errors` ignores only some
        shutil.rmtree(private, ignore_errors=True)


def _empty(private: str) -> None:
    """Remove what a crash left, but bring back the old folder if it has no other name."""
    final, old = private.removesuffix(".ckptsurgeon-tmp"), os.path.join(private, "old")
    if is_taken(old) and not is_taken(final):
        os.rename(old, final)
    shutil.rmtree(private)


def _check_free(out: str, force: bool) -> bool:
    """Whether a folder is to be replaced.

    Raises:
        RefusedError: one exists, and may not be.
    """
    replaces = is_taken(out)
    if replaces and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    return replaces


def _stage(plan: Plan, bundle: Bundle, staged: str, link: bool, sync: bool, wait: float) -> list[str]:
    """Write the new folder; returns warnings."""
    values = os.path.basename(bundle.prefix) + "."
    home = os.path.dirname(bundle.prefix)

    def others(folder: str, names: list[str]) -> list[str]:
        ours = [name for name in names if name.startswith(values) or name == KEPT]
        return ours if ours and os.path.samefile(folder, home) else []

    assert bundle.folder is not None
    shutil.copytree(bundle.folder, staged, symlinks=True, ignore=others)
    prefix = os.path.join(staged, "variables", "variables")
    if not plan.changes_nothing:
        return writing.save_as(plan, prefix, link, False, sync, wait)
    files = {path: bundle.file(path) for path in (*bundle.data_files, bundle.main_file)}
    if bundle.was_replaced():  # what was opened is copied, whatever the paths lead to by now
        raise ChangedError("was replaced while it was read; try again", path=bundle.path)
    for path, file in files.items():
        write_file(os.path.join(os.path.dirname(prefix), os.path.basename(path)), chunks_of(file), sync=False)
    return []


def _keep_permissions(old: str, new: str) -> None:
    """Give all folders and files of a new folder the permissions of those that they replace; new ones the folder's."""
    for folder, _, names in os.walk(new):
        there = os.path.join(old, os.path.relpath(folder, new))
        for name in ("", *names):
            path, like = os.path.join(folder, name), os.path.join(there, name)
            if not os.path.islink(path) and os.path.exists(like):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    keep_attributes(like, fd)
                finally:
                    os.close(fd)


def _publish(staged: str, out: str, replaces: bool, sync: bool, wait: float, warnings: list[str]) -> bool:
    """Move a finished folder to its place. On Linux a reader sees either the old folder or the new one.

    An old folder is locked, as is its index: another process may be editing it in place.

    Returns:
        Whether a power cut cannot undo it any more.

    Raises:
        BusyError: another process saved there, or is writing the old folder.
        OSError: the operating system refused; the old folder is unharmed.
    """
    with ExitStack() as stack:
        if replaces and os.path.isdir(out):
            stack.enter_context(Lock(out, wait))
            index = os.path.join(out, "variables", "variables.index")
            if os.path.isfile(index):
                stack.enter_context(Lock(index, wait))
        stack.enter_context(held_signals())
        if not replaces:
            if not _renamed(staged, out, _NO_REPLACE):
                if is_taken(out):  # a plain rename would replace an empty folder
                    raise overtaken(out)
                os.rename(staged, out)
        elif not _renamed(staged, out, _EXCHANGE):
            old = os.path.join(os.path.dirname(staged), "old")  # no folder has the name for an instant
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
