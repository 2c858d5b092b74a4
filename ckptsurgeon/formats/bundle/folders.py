"""Writes SavedModel folders: staged as a whole in a private folder, then moved into place by one rename."""

from __future__ import annotations

import os
import shutil

from ... import errors, folders
from ...errors import ChangedError, RefusedError
from ...publish import KEPT, write_file
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
    with errors.files(out), folders.private_folder(out, wait) as private:
        replaces = _check_free(out, force)
        staged = os.path.join(private, "new")
        warnings = _stage(plan, bundle, staged, link, sync, wait)
        if replaces and os.path.isdir(out):
            folders.keep_permissions(out, staged)
        if sync:
            folders.sync_all(staged)
        with folders.locked(out, wait):
            is_durable = folders.publish(staged, out, replaces, sync, warnings)
        if is_durable:  # otherwise a power cut may bring back the old folder, which is in there now
            folders.discard(private)
    return warnings


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
