"""The verb `compact`."""

from __future__ import annotations

from ...verbs import reclaiming
from .. import render
from ..options import add_checkpoint, add_writing, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon compact CKPT [options]

Reclaim the bytes that no variable refers to, as drop and graft leave them in a TensorFlow V2 checkpoint: all live bytes
are rewritten into one shard. In place, versions kept by --backup are removed too. Prints how many bytes were reclaimed.
If there are none, nothing is written.

  ckptsurgeon compact model.ckpt
  ckptsurgeon compact model.ckpt --dry-run
  ckptsurgeon compact model.ckpt -o small.ckpt --json
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `compact`."""
    add_checkpoint(parser)
    add_writing(parser)


def run(args: Arguments) -> int:
    """Compact."""
    report = reclaiming.compact(args.checkpoint, **writing(args))
    done = {"path": args.out or args.checkpoint, "reclaimed": report.reclaimed}
    with render.after(report.path, args.dry_run):
        render.emit([done], ("path", "reclaimed"), args.json)
    render.warn(report)
    return 0
