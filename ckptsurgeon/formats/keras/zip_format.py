"""Keras's .keras file in the table of formats."""

from __future__ import annotations

from .format import Hdf5Format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ..format import Format, Found


class KerasZipFormat(Hdf5Format):
    """A .keras file: a zip file around HDF5. See `format.Format` for the members."""

    name = "keras-zip"
    is_zip = True

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .archive import KerasZip

        return KerasZip(found.path, found.files)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`: one file, with all its members."""
        from .. import copying

        return copying.copy_file(checkpoint, out, force, sync, wait)


FORMAT: Format = KerasZipFormat()
