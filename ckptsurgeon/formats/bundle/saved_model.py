"""SavedModel folders: writes a changed one as a new folder. In place, their variables are edited like any bundle.

The variables are the bundle `variables/variables`; all other files (`saved_model.pb`, assets, fingerprint) are copied.
`fingerprint.pb` holds a hash of the checkpoint, which is stale after any edit; TensorFlow does not check it.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import GRAPH
from ...errors import DamagedError, NotFoundError, RefusedError
from ...names import shown
from ...plan import Plan
from ...source import is_file
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
        return Found(self.name, prefix, [prefix + ".index"], path) if is_file(prefix + ".index") else None

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
        from .folders import save_as

        return save_as(plan, out, link, force, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`."""
        from .folders import save_as

        return save_as(Plan(checkpoint, []), out, False, force, sync, wait)


FORMAT: Format = SavedModel()


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
