"""npy, which holds one array, in the table of formats."""

from __future__ import annotations

from .format import NumPyZip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ..format import Format, Found


class NumPyArray(NumPyZip):
    """An npy file. See `format.Format` for the members."""

    name = "npy"

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .reading import Npy

        return Npy(found.path)


FORMAT: Format = NumPyArray()
