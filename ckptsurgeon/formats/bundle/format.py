"""TensorFlow V2 in the table of formats."""

from __future__ import annotations

import os

from ...errors import UsageError
from ...source import is_file
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...errors import RefusedError
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format
    from .reading import Bundle


class TensorFlowV2:
    """A TensorBundle: PREFIX.index and PREFIX.data-?????-of-?????. See `format.Format` for the members."""

    name = "tf-v2"
    is_tensorflow = True
    has_state = True
    is_written = True
    is_folder = False
    writes_whole = False
    shares_files = True

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: the V2 checkpoint with exactly this prefix."""
        index = path + ".index"
        return Found(self.name, path, [index]) if is_file(index) else None

    def open(self, found: Found) -> Bundle:
        """As `Format.open`."""
        from .reading import Bundle

        return Bundle(found.path, found.folder)

    def files(self, found: Found) -> list[str]:
        """As `Format.files`: the index, and every data file of this prefix."""
        folder, base = os.path.split(found.path)
        names = (name for name in os.listdir(folder or ".") if name.startswith(f"{base}.data-"))
        return [*found.files, *(os.path.join(folder, name) for name in names)]

    def own_metadata(self, checkpoint: Checkpoint) -> list[str]:
        """As `Format.own_metadata`: none."""
        return []

    def main_file(self, out: str) -> str:
        """As `Format.main_file`: the index."""
        return out + ".index"

    def check(self, plan: Plan, out: str | None) -> None:
        """As `Format.check`."""
        from . import writing

        writing.check(plan, out)

    def binding(self, plan: Plan, out: str | None) -> tuple[RefusedError | None, list[str]]:
        """As `Format.binding`: the names of such a checkpoint bind it to no file that belongs to it."""
        return None, []

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`."""
        from . import writing

        return writing.save_in_place(plan, lock, link, sync, wait)

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`."""
        from . import writing

        return writing.save_as(plan, out, link, force, sync, wait)

    def compact(self, plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
        """As `Format.compact`."""
        from . import writing

        return writing.compact(plan, lock, sync, wait)

    def heal(self, checkpoint: Checkpoint, lock: Lock, sync: bool, wait: float, compact: bool) -> list[str]:
        """As `Format.heal`."""
        from . import healing
        from .reading import Bundle

        assert isinstance(checkpoint, Bundle)
        return healing.heal(checkpoint, lock, sync, wait, compact)

    def put_back(self, path: str, kept: str, lock: Lock, sync: bool, wait: float) -> list[str]:
        """As `Format.put_back`."""
        from . import writing

        return writing.put_back(path.removesuffix(".index"), kept.removesuffix(".index"), lock, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`."""
        from . import copying

        return copying.copy(checkpoint, out, force, sync, wait)

    def like(self, plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
        """As `Format.like`: refused."""
        raise UsageError("--like takes a Keras or HDF5 file", path=template.path, found=template.format)

    def remove(self, path: str) -> None:
        """As `Format.remove`."""
        from . import writing

        writing.delete(path)

    def to_sync(self, path: str) -> list[str]:
        """As `Format.to_sync`."""
        from .leftovers import shard_files

        return [*(shard for shard, _, _ in shard_files(path)), path + ".index"]


FORMAT: Format = TensorFlowV2()
