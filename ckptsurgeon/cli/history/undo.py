"""The verb `undo`."""

from __future__ import annotations

from ...verbs import reclaiming, undoing
from .. import render
from ..options import add_checkpoint, add_json, add_wait
from . import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon undo CKPT [options]

Bring back, atomically, what the last operation on CKPT with --backup replaced, and print that operation as 'log' does.
Each further undo goes one operation further back; an undo cannot be undone. If CKPT was changed since that operation,
undo is refused unless --force is given. --forget removes everything that is kept, as compact does.

  graft src.ckpt dst.ckpt --layers 0 --backup && ckptsurgeon undo dst.ckpt
  ckptsurgeon drop model.ckpt learning_rate --backup && ckptsurgeon undo model.ckpt --dry-run
  ckptsurgeon undo model.ckpt --forget
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `undo`."""
    add_checkpoint(parser)
    parser.add_argument("--forget", action="store_true", help="undo nothing; remove what is kept")
    parser.add_argument("--dry-run", action="store_true", help="print what would be undone, change nothing")
    parser.add_argument("--force", action="store_true", help="undo even if that loses what was saved since")
    add_wait(parser)
    add_json(parser)


def run(args: Arguments) -> int:
    """Undo, or forget."""
    if args.forget:
        reclaimed = reclaiming.forget(args.checkpoint, wait=args.wait, dry_run=args.dry_run)
        with render.after(args.checkpoint, args.dry_run):
            render.emit([{"path": args.checkpoint, "reclaimed": reclaimed}], ("path", "reclaimed"), args.json)
        return 0
    done = undoing.undo(args.checkpoint, force=args.force, wait=args.wait, dry_run=args.dry_run)
    with render.after(args.checkpoint, args.dry_run):
        render.emit([done.row if args.json else log.shortened(done.row)], log.COLUMNS, args.json)
    render.warn(done)
    return 0
