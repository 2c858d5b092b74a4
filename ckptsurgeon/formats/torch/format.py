"""PyTorch in the table of formats: read, and never written."""

from __future__ import annotations

import os

from ...errors import RefusedError
from ...source import kind_at
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format


class PyTorch(OneFile):
    """A zip file that `torch.save` wrote, or a set of them with an index. See `format.Format` for the members."""

    name = "torch"
    is_written = False

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a file, one of a set or its index, or a folder with a usual name in it."""
        if not path.endswith((".bin", ".json")) and not kind_at(path):
            return None
        from . import finding

        files = finding.locate(path)
        return Found(self.name, path, files) if files else None

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .reading import Torch

        return Torch(found.path, found.files)

    def check(self, plan: Plan, out: str | None) -> None:
        """As `Format.check`: refused, with a command that converts the file to a format that can be written."""
        from .refusing import not_written

        if out is None or plan.recipient.container == self.name:
            raise not_written(plan.recipient.path)
        hint = f"name it {os.path.splitext(out)[0]}.safetensors"
        raise RefusedError("PyTorch files are read, and never written", path=out, hint=hint)

    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_in_place`: refused."""
        self.check(plan, None)
        return []

    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.save_as`: refused."""
        self.check(plan, out)
        return []

    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
        """As `Format.copy`; the index of a set is copied last."""
        from .. import copying
        from .reading import Torch

        assert isinstance(checkpoint, Torch)
        if checkpoint.files == [checkpoint.main_file]:
            return copying.copy_file(checkpoint, out, force, sync, wait)
        hint = "'convert --to safetensors' makes one file of it"
        return copying.copy_set(checkpoint, checkpoint.files, out, sync, wait, hint)


FORMAT: Format = PyTorch()
