"""The base class of formats whose checkpoints are single files, each replaced by one rename."""

from __future__ import annotations

import os

from ... import errors
from ...errors import UsageError
from ...lean import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...errors import RefusedError
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Found


class OneFile:
    """The members of `format.Format` that do not depend on the content of the file.

    A subclass adds name, recognise, open, check, save_in_place and save_as.
    """

    name = ""
    is_tensorflow = False
    has_state = False
    is_written = True
    is_folder = False
    writes_whole = True
    shares_files = False

    def files(self, found: Found) -> list[str]:
        """As `Format.files`."""
        return found.files

    def own_metadata(self, checkpoint: Checkpoint) -> list[str]:
        """As `Format.own_metadata`: none."""
        return []

    def main_file(self, out: str) -> str:
        """As `Format.main_file`: the file itself."""
        return out

    def binding(self, plan: Plan, out: str | None) -> tuple[RefusedError | None, list[str]]:
        """As `Format.binding`: the names of such a checkpoint bind it to no file that belongs to it."""
        return None, []

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`."""
        raise AssertionError(self.name)

    def compact(self, plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
        """As `Format.compact`: every operation in place rewrites the whole file anyway."""
        return [] if plan.changes_nothing else self.save_in_place(plan, lock, False, sync, wait)

    def heal(self, checkpoint: Checkpoint, lock: Lock, sync: bool, wait: float, compact: bool) -> list[str]:
        """As `Format.heal`: removes the staged files of its files."""
        from ...publish import clear
        from ...source import is_taken

        extents = (extent for variable in checkpoint.variables.values() for extent in variable.extents)
        # An extent may lie in a member of a zip file, whose "file" is no path.
        for path in sorted({checkpoint.main_file, *filter(is_taken, {extent.file for extent in extents})}):
            clear(f"{path}.ckptsurgeon-tmp", wait)
        clear(f"{checkpoint.main_file}.ckptsurgeon-tmp.set", wait)
        return []

    def put_back(self, path: str, kept: str, lock: Lock, sync: bool, wait: float) -> list[str]:
        """As `Format.put_back`."""
        from . import replacing

        return replacing.put_back(path, kept, lock, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`."""
        from .. import copying

        return copying.copy_file(checkpoint, out, force, sync, wait)

    def like(self, plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
        """As `Format.like`: refused."""
        raise UsageError("--like takes a Keras or HDF5 file", path=template.path, found=template.format)

    def remove(self, path: str) -> None:
        """As `Format.remove`."""
        with errors.files(path), suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(path)

    def to_sync(self, path: str) -> list[str]:
        """As `Format.to_sync`."""
        return [path]
