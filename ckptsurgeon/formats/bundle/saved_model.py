"""SavedModel folders: writes a changed one as a new folder. In place, their variables are edited like any bundle.

The variables are the bundle `variables/variables`; all other files (`saved_model.pb`, assets, fingerprint) are copied.
`fingerprint.pb` holds a hash of the checkpoint, which is stale after any edit; TensorFlow does not check it.
"""

from __future__ import annotations

import os

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

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`."""
        from .folders import save_as

        return save_as(plan, out, link, force, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`."""
        from .folders import save_as

        return save_as(Plan(checkpoint, []), out, False, force, sync, wait)


FORMAT: Format = SavedModel()
