"""safetensors in the table of formats."""

from __future__ import annotations

from ...source import kind_at
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format


class Safetensors(OneFile):
    """A safetensors file, or a set of them with an index. See `format.Format` for the members."""

    name = "safetensors"

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a file, one of a set or its index, or a folder."""
        if not path.endswith((".safetensors", ".json")) and not kind_at(path):
            return None
        from . import finding

        files = finding.locate(path)
        return Found(self.name, path, files) if files else None

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .reading import SafeTensors

        return SafeTensors(found.path, found.files)

    def own_metadata(self, checkpoint: Checkpoint) -> list[str]:
        """As `Format.own_metadata`: the user's metadata, without the layer numbers that a streamed checkpoint keeps."""
        from .reading import LAYERS, SafeTensors

        assert isinstance(checkpoint, SafeTensors)
        return [key for key in checkpoint.metadata_items() if key != LAYERS]

    def check(self, plan: Plan, out: str | None) -> None:
        """As `Format.check`."""
        from . import writing

        writing.check(plan, out)

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`."""
        from . import writing

        return writing.save_in_place(plan, lock, sync, wait)

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`."""
        from . import writing

        return writing.save_as(plan, out, force, sync, wait)

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`; the index of a set is copied last."""
        from .. import copying
        from .reading import SafeTensors

        assert isinstance(checkpoint, SafeTensors)
        if checkpoint.files == [checkpoint.main_file]:
            return copying.copy_file(checkpoint, out, force, sync, wait)
        hint = "'convert --to safetensors' makes one file of it"
        return copying.copy_set(checkpoint, checkpoint.files, out, sync, wait, hint)


FORMAT: Format = Safetensors()
