"""HDF5 in the table of formats."""

from __future__ import annotations

import os

from ...errors import warn
from ...source import kind_at
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...errors import RefusedError
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format


class Hdf5Format(OneFile):
    """An HDF5 file, from Keras or not, or a set with a .weights.json. See `format.Format` for the members."""

    name = "hdf5"
    is_zip = False

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a file, one of a set or its index, or a folder with a usual name in it."""
        if not path.endswith(".h5") and not kind_at(path):
            return None
        from . import finding

        found = finding.locate(path)
        return Found(self.name, path, found[1]) if found and found[0] == self.name else None

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`; warns about a part of a set whose index is missing."""
        from .finding import missing_index
        from .reading import Hdf5

        index = missing_index(found.files[0]) if len(found.files) == 1 else None
        if index is not None:
            warn(found.path, f"only a part of a set of files, whose index {os.path.basename(index)} is missing")
        return Hdf5(found.path, found.files)

    def check(self, plan: Plan, out: str | None) -> None:
        """As `Format.check`."""
        from . import writing

        writing.check(plan, out, self.name)

    def binding(self, plan: Plan, out: str | None) -> tuple[RefusedError | None, list[str]]:
        """As `Format.binding`."""
        from . import binding

        return binding.binding(plan, out, self.is_zip)

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`."""
        from . import writing

        return writing.save_in_place(plan, lock, sync, wait)

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`; the recipient, an HDF5 or Keras file, gives the layout."""
        from . import writing

        return writing.save_as(plan, out, self.name, force, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`; the index of a set is copied last."""
        from .. import copying
        from .reading import Hdf5

        assert isinstance(checkpoint, Hdf5)
        if checkpoint.files == [checkpoint.main_file]:
            return copying.copy_file(checkpoint, out, force, sync, wait)
        return copying.copy_set(checkpoint, checkpoint.files, out, sync, wait, None)

    def like(self, plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
        """As `Format.like`."""
        from . import writing
        from .reading import Hdf5

        assert isinstance(template, Hdf5)
        return writing.like(plan, template)


FORMAT: Format = Hdf5Format()
