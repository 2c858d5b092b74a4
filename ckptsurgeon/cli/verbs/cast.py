"""The verb `cast`."""

from __future__ import annotations

from ...verbs import changing
from .. import render
from ..options import add_backup, add_checkpoint, add_selection, add_slots, add_writing, selected, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon cast CKPT DTYPE [selection] [options]

Convert variables to another dtype (float32, float16, bfloat16, int8, ...): all floats, or those selected. Floats are
rounded; a value that the dtype cannot hold is refused, and nothing is written. Slots keep their dtype unless
--slots copy is given. Learning rates, other variables of the optimizer's own and step counters keep it unless a
pattern matches them alone.

  ckptsurgeon cast model.ckpt bfloat16 -o small.ckpt
  ckptsurgeon cast model.ckpt float16 --layers 0-1 --slots copy
  ckptsurgeon cast model.ckpt float64 --match learning_rate --dry-run
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `cast`."""
    add_checkpoint(parser)
    parser.add_argument("dtype", metavar="DTYPE", help="the new dtype")
    add_selection(parser)
    add_slots(parser, "of cast variables")
    add_writing(parser)
    add_backup(parser)


def run(args: Arguments) -> int:
    """Cast."""
    report = changing.cast(args.checkpoint, args.dtype, **selected(args), slots=args.slots, **writing(args))
    render.report(report, args.dry_run, args.json)
    return 0
