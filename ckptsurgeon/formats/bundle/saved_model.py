"""SavedModel folders: writes a changed one as a new folder. In place, their variables are edited like any bundle.

The variables are the bundle `variables/variables`; all other files (`saved_model.pb`, assets, fingerprint) are copied.
`fingerprint.pb` holds a hash of the checkpoint, which is stale after any edit; TensorFlow does not check it.
"""

from __future__ import annotations

import os

from ... import errors
from ...errors import RefusedError
from ...plan import Plan
from ..format import Found
from .format import TensorFlowV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ..format import Format


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


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new SavedModel folder at `out`.

    Returns:
        Warnings.

    Raises:
        RefusedError: something exists at `out`, and `force` is not set.
        StorageError: the operating system refused; an existing folder is unharmed.
    """
    import shutil

    from ...publish import fsync_all, replace_folder
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
                    if not plan.changes_nothing
                    and name.startswith(values)
                    and os.path.samefile(folder, os.path.dirname(bundle.prefix))
                ],
            )
            prefix = os.path.join(staged, "variables", "variables")
            if not plan.changes_nothing:
                warnings = writing.save_as(plan, prefix, link, False, sync, wait)
            if sync:
                fsync_all([os.path.join(folder, name) for folder, _, names in os.walk(staged) for name in ("", *names)])
            replace_folder(staged, out.rstrip(os.sep))
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return warnings
