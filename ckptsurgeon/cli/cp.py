"""The verb `cp`."""

from __future__ import annotations

import sys

from ..verbs import producing
from .parser import add_checkpoint, add_replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = """ckptsurgeon cp CKPT OUT [options]

Copy a whole checkpoint, byte for byte, every checksum verified. OUT is a prefix; of a SavedModel, a folder. A folder
without a 'checkpoint' file gets one that names OUT by a relative path.

  ckptsurgeon cp model.ckpt copy.ckpt
  ckptsurgeon cp model.ckpt.index copy.ckpt
  ckptsurgeon cp model.ckpt copy.ckpt --force
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `cp`."""
    add_checkpoint(parser)
    parser.add_argument("out", metavar="OUT", help="the copy")
    add_replacing(parser)


def run(args: Namespace) -> int:
    """Copy."""
    for warning in producing.cp(args.checkpoint, args.out, wait=args.wait, force=args.force):
        print(f"ckptsurgeon: warning: {warning}", file=sys.stderr)
    return 0
