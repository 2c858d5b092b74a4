"""The verb `log`."""

from __future__ import annotations

from ...verbs import undoing
from .. import render, streams
from ..options import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon log CKPT [--json]

List the operations on CKPT that were done with --backup and can be undone, the last one first: time (UTC), verb, number
of variables changed, their names, the donor, and the start of its SHA-256 (of a TensorFlow V2 donor, its index's).
--json has all names, what happened to each, and where the replaced version is kept: a checkpoint that all verbs read.

  ckptsurgeon log model.ckpt
  ckptsurgeon set model.ckpt global_step 0 --backup && ckptsurgeon log model.ckpt --json
  graft src.ckpt dst.ckpt --layers 0 --backup && ckptsurgeon ls .ckptsurgeon/dst.ckpt.index/1/dst.ckpt
"""

COLUMNS = ("time", "verb", "variables", "names", "donor", "sha256")
_SHOWN = 3  # names
_DIGITS = 12  # of a digest


def add_arguments(parser: Parser) -> None:
    """The arguments of `log`."""
    add_checkpoint(parser)
    add_json(parser)


def run(args: Arguments) -> int:
    """List."""
    rows = undoing.log(args.checkpoint)
    render.emit(rows if args.json else list(map(shortened, rows)), COLUMNS, args.json)
    if rows and not rows[0]["present"]:
        streams.complain(f"warning: {args.checkpoint}: was changed since the last of these operations")
    return 0


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `undoing.log` as plain output shows it."""
    names = [change["name"] for change in row["changes"]]
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    digest = row["sha256"] and row["sha256"][:_DIGITS]
    return {**row, "variables": len(names), "names": ", ".join(names[:_SHOWN] + more), "sha256": digest}
