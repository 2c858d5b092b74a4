"""SavedModel folders: writes a changed one as a new folder. In place, their variables are edited like any bundle.

The variables are the bundle `variables/variables`; all other files (`saved_model.pb`, assets, fingerprint) are copied.
`fingerprint.pb` holds a hash of the checkpoint, which is stale after any edit; TensorFlow does not check it.
"""

from __future__ import annotations

import os

from ... import errors
from ...errors import ChangedError, RefusedError
from ...plan import Plan
from ..format import Found
from .format import TensorFlowV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
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


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new SavedModel folder at `out`.

    Returns:
        Warnings.

    Raises:
        RefusedError: something exists at `out`, and `force` is not set.
        StorageError: the operating system refused; an existing folder is unharmed.
    """
    import shutil

    from ...publish import KEPT, fsync_all
    from . import writing
    from .reading import Bundle

    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    assert bundle.folder is not None
    if os.path.lexists(out) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    staged = f"{out.rstrip(os.sep)}.ckptsurgeon-tmp"
    values = os.path.basename(bundle.prefix) + "."
    warnings: list[str] = []
    with errors.files(out):
        try:
            shutil.rmtree(staged, ignore_errors=True)
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
            )
            prefix = os.path.join(staged, "variables", "variables")
            if plan.changes_nothing:
                _copy_values(bundle, prefix)
            else:
                warnings = writing.save_as(plan, prefix, link, False, sync, wait)
            if sync:
                fsync_all([os.path.join(folder, name) for folder, _, names in os.walk(staged) for name in ("", *names)])
            _replace_folder(staged, out.rstrip(os.sep))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return warnings


def _replace_folder(staged: str, final: str) -> None:
    """Move a finished folder to its place, replacing an old one. On Linux a reader sees either the old or the new one.

    Raises:
        StorageError: the operating system refused; the old folder is unharmed.
    """
    import shutil

    from ...publish import fsync, held_signals

    parent = os.path.dirname(final) or "."
    with errors.files(final), held_signals():
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
