"""The verb `average`."""

from __future__ import annotations

from ...errors import UsageError
from ...verbs import producing
from .. import render
from ..options import add_selection, add_slots, add_writing, placing, selected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon average CKPT CKPT... -o OUT [selection] [--weights W,W] [options]

Average checkpoints, variable by variable, in float64. Floats and complex numbers are averaged, and rounded to the
dtype of the first; integers, strings and everything not selected are copied from the first. So are the slots, unless
--slots says otherwise (copy: averaged too). The names must agree.

  ckptsurgeon average a.ckpt b.ckpt -o mean.ckpt
  ckptsurgeon average a.ckpt b.ckpt -o mean.ckpt --weights 3,1 --slots copy
  ckptsurgeon average a.ckpt b.ckpt -o trunk.ckpt --layers 0-1 --dry-run
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `average`."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs="+", help="prefixes, any of their files, or folders")
    add_selection(parser)
    parser.add_argument("--weights", metavar="W,W", help="one number for each CKPT; default: equal weights")
    add_slots(parser, "of averaged variables")
    add_writing(parser)


def run(args: Arguments) -> int:
    """Average."""
    if args.out is None:
        raise UsageError("no output is named", expected="-o OUT")
    report = producing.average(
        args.checkpoints,
        args.out,
        **selected(args),
        weights=_weights(args.weights),
        slots=args.slots,
        **placing(args),
    )
    render.report(report, args.dry_run, args.json)
    return 0


def _weights(text: str | None) -> list[float]:
    try:
        return [float(item) for item in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"invalid --weights {text!r}", expected="numbers separated by commas") from None
