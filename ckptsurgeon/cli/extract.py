"""The verb `extract`."""

from __future__ import annotations

import sys

from ..errors import UsageError
from ..verbs import producing
from . import render
from .parser import add_checkpoint, add_selection, add_writing, selected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = """ckptsurgeon extract CKPT (--layers RANGE | --match GLOB)... -o (OUT | -) [options]

Write the selected variables alone, in the format that OUT's ending means, else in CKPT's. With -o - they go to stdout
as safetensors, whose metadata keep the numbers of the layers under the key ckptsurgeon.layers: graft takes that as -.

  ckptsurgeon extract model.ckpt --layers 0-1 -o trunk.ckpt
  ckptsurgeon extract model.ckpt --match 'logistic_regression/*' --slots -o head.npz
  ckptsurgeon extract a.ckpt --layers 0-2 -o - | graft - b.ckpt
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `extract`."""
    add_checkpoint(parser)
    add_selection(parser)
    parser.add_argument("--slots", action="store_true", help="the slots of the selected variables too")
    add_writing(parser)


def run(args: Namespace) -> int:
    """Extract."""
    if args.out is None:
        raise UsageError("what is extracted needs a place", expected="-o OUT, or -o - for stdout")
    streams = args.out == "-"
    if streams and sys.stdout.isatty() and not args.dry_run:
        raise UsageError("-o - writes bytes, which a terminal cannot show", hint="pipe it, or use -o FILE")
    report = producing.extract(
        args.checkpoint,
        args.out,
        **selected(args),
        slots=args.slots,
        wait=args.wait,
        dry_run=args.dry_run,
        force=args.force,
    )
    if not streams or args.dry_run:
        report.rows = [row for row in report.rows if row["action"] != "dropped"]
        render.report(report, args.dry_run, args.json)
    return 0
