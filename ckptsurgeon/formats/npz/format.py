"""npz in the table of formats."""

from __future__ import annotations

from ...source import is_file
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format


class NumPyZip(OneFile):
    """An npz file. See `format.Format` for the members."""

    name = "npz"

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`."""
        if not is_file(path):
            return None
        from . import reading

        return Found(self.name, path, [path]) if reading.kind_of(path) == self.name else None

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .reading import Npz

        return Npz(found.path)

    def check(self, plan: Plan, out: str | None) -> None:
        """As `Format.check`."""
        from . import writing

        writing.check(plan, out, self.name)

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`."""
        from . import writing

        return writing.save_in_place(plan, lock, sync, wait)

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`."""
        from . import writing

        return writing.save_as(plan, out, self.name, force, sync, wait)


FORMAT: Format = NumPyZip()
