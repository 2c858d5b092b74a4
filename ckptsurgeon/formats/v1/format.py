"""TensorFlow V1 in the table of formats."""

from __future__ import annotations

from ...errors import RefusedError
from ..files.one_file import OneFile
from ..format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint
    from ...plan import Plan
    from ...publish import Lock
    from ..format import Format


class TensorFlowV1(OneFile):
    """A V1 checkpoint: one table of saved tensor slices, or several. See `format.Format` for the members."""

    name = "tf-v1"
    is_tensorflow = True
    has_state = True

    def recognise(self, path: str) -> Found | None:
        """As `Format.recognise`: a file, or the prefix of a set."""
        from . import finding

        files = finding.locate(path)
        return Found(self.name, *files) if files else None

    def open(self, found: Found) -> Checkpoint:
        """As `Format.open`."""
        from .reading import V1

        return V1(found.path, found.files)

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
        """As `Format.copy`; a single file of a set is refused."""
        from .. import copying

        if checkpoint.shards > 1:
            raise RefusedError(
                "a checkpoint of several files, which no single rename can put in place",
                path=checkpoint.path,
                hint="'convert --to v1' makes one file of it",
            )
        return copying.copy_file(checkpoint, out, force, sync, wait) + copying.copy_meta(checkpoint, out, sync)


FORMAT: Format = TensorFlowV1()
