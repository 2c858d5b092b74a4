"""PyTorch in the table of formats: read, and never written."""

from __future__ import annotations

import os

from ...errors import RefusedError
from ...source import is_file, is_folder
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format

_IN_FOLDER = "pytorch_model.bin"  # as transformers saved models before safetensors


class PyTorch(OneFile):
    """A zip file that `torch.save` wrote. See `format.Format` for the members."""

    name = "torch"

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a file, or the folder of a Hugging Face model with one such file."""
        file = os.path.join(path, _IN_FOLDER) if is_folder(path) else path
        if not is_file(file):
            return None
        from . import reading

        return Found(self.name, path, [file]) if reading.is_archive(file) else None

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


FORMAT: Format = PyTorch()
