"""The verb `extract`."""

from __future__ import annotations

import sys

from ...errors import UsageError
from ...verbs import producing
from .. import render
from ..options import add_checkpoint, add_selection, add_writing, placing, selected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon extract CKPT (--layers RANGE | --match GLOB)... -o (OUT | -) [options]

Write only the selected variables, in the format that OUT's ending means, or in CKPT's format. With -o - they go to
stdout as safetensors, with the layer numbers in the metadata under the key ckptsurgeon.layers: graft reads this as -.

  ckptsurgeon extract model.ckpt --layers 0-1 -o trunk.ckpt
  ckptsurgeon extract model.ckpt --match 'logistic_regression/*' --slots -o head.npz
  ckptsurgeon extract a.ckpt --layers 0-2 -o - | graft - b.ckpt
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `extract`."""
    add_checkpoint(parser)
    add_selection(parser)
    parser.add_argument("--slots", action="store_true", help="also the slots of the selected variables")
    add_writing(parser)


def run(args: Arguments) -> int:
    """Extract."""
    if args.out is None:
        raise UsageError("no output is named", expected="-o OUT, or -o - for stdout")
    streams = args.out == "-"
    if streams and sys.stdout.isatty() and not args.dry_run:
        raise UsageError("-o - writes bytes, which a terminal cannot show", hint="pipe the output, or use -o FILE")
    report = producing.extract(
        args.checkpoint,
        args.out,
        **selected(args),
        slots=args.slots,
        **placing(args),
    )
    if not streams or args.dry_run:
        report.rows = [row for row in report.rows if row["action"] != "dropped"]
        render.report(report, args.dry_run, args.json)
    return 0
