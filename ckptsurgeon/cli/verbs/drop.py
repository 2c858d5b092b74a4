"""The verb `drop`."""

from __future__ import annotations

from ...errors import CkptSurgeonError
from ...lean import suppress
from ...verbs import changing, looking
from .. import render, streams
from ..options import add_backup, add_checkpoint, add_writing, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon drop CKPT GLOB... [--slots] [options]

Remove variables together with their slots; an object graph is updated. --slots removes all slots (moving averages
included) and the optimizer's own variables (beta1_power, optimizer/**, ...), never global_step or save_counter. In
place, the dropped bytes stay in the data file unless --compact rewrites it; with -o only live bytes are written. What
a SavedModel or Keras needs is only dropped with --anyway.

  ckptsurgeon drop model.ckpt 'logistic_regression/**'
  ckptsurgeon drop model.ckpt --slots -o small.ckpt
  ckptsurgeon drop model.ckpt learning_rate --dry-run --json
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `drop`."""
    add_checkpoint(parser)
    parser.add_argument("globs", metavar="GLOB", nargs="*", default=[], help="names to drop")
    parser.add_argument("--slots", action="store_true", help="drop all slots and the optimizer's own variables")
    parser.add_argument("--compact", action="store_true", help="rewrite the data without the dropped bytes")
    add_writing(parser)
    add_backup(parser)


def run(args: Arguments) -> int:
    """Drop."""
    report = changing.drop(
        args.checkpoint,
        args.globs,
        slots=args.slots,
        compact=args.compact,
        **writing(args),
    )
    render.report(report, args.dry_run, args.json)
    if args.out is None and not args.dry_run:
        dead = None
        with suppress(CkptSurgeonError):  # the drop is done; its report does not depend on this
            dead = looking.unreferenced(args.checkpoint)
        if dead:
            what = f"{dead} bytes in its data files no longer belong to a variable; 'ckptsurgeon compact' reclaims them"
            streams.complain(f"{args.checkpoint}: {what}")
    return 0
