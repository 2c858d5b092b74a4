"""SavedModel folders: writes a changed one as a new folder. In place, their variables are edited like any bundle.

The variables are the bundle `variables/variables`; all other files (`saved_model.pb`, assets, fingerprint) are copied.
`fingerprint.pb` holds a hash of the checkpoint, which is stale after any edit; TensorFlow does not check it.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import GRAPH
from ...errors import ChangedError, DamagedError, NotFoundError, RefusedError
from ...names import shown
from ...plan import Plan
from ..format import Found
from .format import TensorFlowV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...publish import Lock
    from ..format import Format
    from .reading import Bundle


class SavedModel(TensorFlowV2):
    """A SavedModel folder around the bundle `variables/variables`. See `format.Format` for the members."""

    name = "saved-model"
    has_state = False
    is_folder = True

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a folder with `variables/variables.index`."""
        prefix = os.path.join(path, "variables", "variables")
        return Found(self.name, prefix, [prefix + ".index"], path) if os.path.isfile(prefix + ".index") else None

    def main_file(self, out: str) -> str:
        """As `Format.main_file`: the index of the variables."""
        return os.path.join(out, "variables", "variables.index")

    def binding(self, plan: Plan, out: str | None) -> tuple[RefusedError | None, list[str]]:
        """As `Format.binding`: `saved_model.pb` restores rows by name, each with the dtype that its program has."""
        changed = _changed(plan)
        if not changed:
            return None, []
        folder = os.path.dirname(os.path.dirname(plan.recipient.main_file))
        needed = _needed(folder)
        lost = changed if needed is None else {key: name for key, name in changed.items() if key in needed}
        if not lost:
            return None, []
        names = shown(list(lost.values()))
        what = f"TensorFlow could not load the result: saved_model.pb restores {names} by these names and dtypes"
        hint = "'convert' it to a bundle, safetensors or npz and edit that"
        return RefusedError(what, path=folder, hint=hint), []

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`."""
        return save_as(plan, out, link, force, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`."""
        return save_as(Plan(checkpoint, []), out, False, force, sync, wait)


FORMAT: Format = SavedModel()


def _copy_values(bundle: Bundle, prefix: str) -> None:
    """Copy a bundle's files as they were opened, whatever their paths lead to by now."""
    from ...publish import write_file
    from ..copying import chunks_of

    files = {path: bundle.file(path) for path in (*bundle.data_files, bundle.main_file)}
    if bundle.was_replaced():
        raise ChangedError("was replaced while it was read; try again", path=bundle.path)
    for path, file in files.items():
        write_file(os.path.join(os.path.dirname(prefix), os.path.basename(path)), chunks_of(file), sync=False)


def _changed(plan: Plan) -> dict[bytes, str]:
    """Return the rows that would be missing or differ in form, and an object graph set by hand: key -> name."""
    now = {result.key: (result.variable.dtype, result.variable.shape) for result in plan.results()}
    changed = {
        variable.key: variable.name
        for variable in plan.recipient.variables.values()
        if now.get(variable.key) != (variable.dtype, variable.shape)
    }
    by_hand = [change for change in plan.changes if change.name == GRAPH and change.action != "updated"]
    changed.update((change.key, GRAPH) for change in by_hand if change.content is not None)
    return changed


def _needed(folder: str) -> set[bytes] | None:
    """Return the strings among which are the keys that the SavedModel restores; None if they are not known: all."""
    from ...source import open_source
    from .restoring import restored

    path = os.path.join(folder, "saved_model.pb")
    try:
        with errors.files(path), open_source(path) as file:
            return restored(file.read(0, file.size))
    except (NotFoundError, DamagedError):  # a saved_model.pbtxt, or something that TensorFlow cannot load anyway
        return None


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new SavedModel folder at `out`.

    Returns:
        Warnings.

    Raises:
        RefusedError: something exists at `out`, and `force` is not set.
        BusyError: another process was writing the same folder all the time.
        StorageError: the operating system refused; an existing folder is unharmed.
    """
    import shutil

    from ...publish import KEPT, fsync_all
    from . import writing
    from .reading import Bundle

    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    assert bundle.folder is not None
    out = out.rstrip(os.sep)
    staged = f"{out}.ckptsurgeon-tmp"
    values = os.path.basename(bundle.prefix) + "."
    warnings: list[str] = []
    with errors.files(out), _staged_folder(staged, wait) as lock:
        try:
            _check_free(out, force)
            shutil.copytree(
                bundle.folder,
                staged,
                symlinks=True,
                ignore=lambda folder, names: [
                    name
                    for name in names
                    if (name.startswith(values) or name == KEPT)
                    and os.path.samefile(folder, os.path.dirname(bundle.prefix))
                ],
                dirs_exist_ok=True,
            )
            prefix = os.path.join(staged, "variables", "variables")
            if plan.changes_nothing:
                _copy_values(bundle, prefix)
            else:
                warnings = writing.save_as(plan, prefix, link, False, sync, wait)
            if sync:
                fsync_all([os.path.join(folder, name) for folder, _, names in os.walk(staged) for name in ("", *names)])
            warnings += _publish(staged, out, force, wait)
        finally:
            if lock.holds():  # it was not published, and is still ours to remove
                shutil.rmtree(staged, ignore_errors=True)
    return warnings


def _check_free(out: str, force: bool) -> None:
    if os.path.lexists(out) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")


def _staged_folder(staged: str, wait: float) -> Lock:
    """Make an empty staged folder, and lock the folder itself; a crash may have left one with files.

    Raises:
        BusyError: another process held it all the time.
    """
    import shutil

    from ...publish import Lock, remove

    while True:
        with errors.files(staged):
            if os.path.islink(staged) or os.path.isfile(staged):
                remove(staged)
            os.makedirs(staged, exist_ok=True)
        try:
            lock = Lock(staged, wait)
        except NotFoundError:  # the process that held it has published it under its final name
            continue
        try:
            with errors.files(staged), os.scandir(staged) as left:
                for each in left:
                    shutil.rmtree(each.path) if each.is_dir(follow_symlinks=False) else os.unlink(each.path)
            return lock
        except BaseException:
            lock.release()
            raise


def _publish(staged: str, final: str, force: bool, wait: float) -> list[str]:
    """Move a finished folder to its place. On Linux a reader sees either the old folder or the new one.

    An old folder is locked, as is its index: it gets the staged folder's name for a moment, which the next writer
    would take for its own.

    Returns:
        Warnings.

    Raises:
        RefusedError: something exists at `final`, and `force` is not set.
        BusyError: another process is writing the old folder.
        StorageError: the operating system refused; the old folder is unharmed.
    """
    import shutil
    from contextlib import ExitStack

    from ...publish import Lock, fsync, held_signals

    with errors.files(final), ExitStack() as locks:
        _check_free(final, force)
        if os.path.isdir(final):
            locks.enter_context(Lock(final, wait))
            index = FORMAT.main_file(final)
            if os.path.isfile(index):
                locks.enter_context(Lock(index, wait))
        with held_signals():
            if not os.path.lexists(final):
                if not _renamed(staged, final, _NO_REPLACE):
                    os.rename(staged, final)  # fails if a folder with files has appeared there
            else:
                if not _renamed(staged, final, _EXCHANGE):
                    retired = f"{final}.ckptsurgeon-old"  # the name is missing for an instant; unavoidable here
                    os.rename(final, retired)
                    os.rename(staged, final)
                    os.rename(retired, staged)
                if os.path.islink(staged):
                    os.unlink(staged)
                shutil.rmtree(staged, ignore_errors=True)  # the new folder is in place, whatever happens to the old one
            fsync(os.path.dirname(final) or ".")
        return [f"{staged}: the old folder could not be removed"] if os.path.lexists(staged) else []


_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_NOREPLACE and RENAME_EXCHANGE of linux/fs.h


def _renamed(one: str, other: str, how: int) -> bool:
    """Rename in a way that Linux has; return whether it worked.

    Raises:
        RefusedError: the new name exists, and may not be replaced.
    """
    import ctypes
    import errno

    here = -100  # AT_FDCWD
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), how) == 0:
        return True
    if rename is not None and ctypes.get_errno() == errno.EEXIST:
        raise RefusedError("somebody saved there meanwhile", path=other, hint="--force replaces it")
    return False
