"""The operations that give disk space back: compact, forget."""

from __future__ import annotations

import os

from .. import formats
from ..errors import CkptSurgeonError
from ..plan import Plan, Report
from . import changing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..checkpoint import Checkpoint
    from .changing import Writing


def compact(path: str | os.PathLike[str], **writing: Unpack[Writing]) -> Report:
    """Write a checkpoint again without the bytes that no variable refers to; where there are none, nothing is written.

    In place, all versions kept for `undo` are removed too.

    Args:
        path: any spelling of a checkpoint's path.
        writing: see `Writing`.

    Returns:
        What was, or with `dry_run` would be, done; `reclaimed` says how many bytes that gives back.

    Raises:
        CkptSurgeonError: a data file is missing or a checksum wrong; nothing was written.
    """
    from .. import compare

    def make(checkpoint: Checkpoint) -> Plan:
        dead.append(compare.dead_bytes(checkpoint))
        if writing.get("out") is None and formats.has_kept(checkpoint.main_file):
            from ..formats.kept.store import Store

            kept.append(Store(checkpoint.main_file).size())
        return Plan(checkpoint, [])

    dead: list[int] = []
    kept: list[int] = []
    report = changing.operate("compact", path, make, compact=lambda: dead[-1] > 0, compacts=True, **writing)
    report.reclaimed = dead[-1] + sum(kept[-1:])
    if kept and not writing.get("dry_run"):
        try:
            forget(path, wait=writing.get("wait", 30.0))
        except CkptSurgeonError as error:  # it is compacted nevertheless
            report.reclaimed = dead[-1]
            report.warnings.append(f"compacted, but the kept versions were not removed: {error}")
    return report


def forget(path: str | os.PathLike[str], *, wait: float = 30.0, dry_run: bool = False) -> int:
    """Remove all versions that are kept for `undo`, and the log.

    Args:
        path: any spelling of a checkpoint's path.
        wait: seconds to wait for another writer.
        dry_run: only count.

    Returns:
        How many bytes that gives back.

    Raises:
        CkptSurgeonError: there is no such checkpoint, or the operating system refused.
    """
    from ..formats.kept import restoring

    return formats.retry(lambda: restoring.forget(os.fspath(path), wait, dry_run))
