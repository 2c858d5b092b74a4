"""The verb `cp`."""

from __future__ import annotations

from ...verbs import producing
from .. import render
from ..options import add_checkpoint, add_json, add_replacing, placing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon cp CKPT OUT [options]

Copy a whole checkpoint, byte for byte, and verify every checksum. OUT is a prefix; for a SavedModel, a folder. A folder
without a 'checkpoint' file gets one that names OUT by a relative path. For a set of files, OUT is the name of the
copy's index or, if the set has no index, of its first file; an existing set is not replaced.

  ckptsurgeon cp model.ckpt copy.ckpt
  ckptsurgeon cp model.ckpt.index copy.ckpt
  ckptsurgeon cp model.ckpt copy.ckpt --force
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `cp`."""
    add_checkpoint(parser)
    parser.add_argument("out", metavar="OUT", help="the copy")
    parser.add_argument("--dry-run", action="store_true", help="print what would be copied, write nothing")
    add_replacing(parser)
    add_json(parser)


def run(args: Arguments) -> int:
    """Copy."""
    report = producing.cp(args.checkpoint, args.out, **placing(args))
    if args.json or args.dry_run:
        render.report(report, args.dry_run, args.json)
    else:
        render.warn(report)
    return 0
