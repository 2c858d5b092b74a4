"""The verb `convert`."""

from __future__ import annotations

from .. import verbs
from . import render
from .parser import add_checkpoint, add_json, add_replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = """ckptsurgeon convert CKPT OUT [--to FORMAT] [--unpartition] [options]

Write a checkpoint in another format: bundle (TensorFlow V2, the default) or v1 (TensorFlow before 1.0). What the format
cannot hold is refused, all of it at once. Prints nothing but what was changed besides the format.

  ckptsurgeon convert model.ckpt old.ckpt --to v1
  ckptsurgeon convert model.ckpt copy.ckpt
  ckptsurgeon convert model.ckpt whole.ckpt --unpartition --dry-run
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `convert`."""
    add_checkpoint(parser)
    parser.add_argument("out", metavar="OUT", help="the new checkpoint")
    parser.add_argument("--to", default="bundle", metavar="FORMAT", help="bundle or v1; default bundle")
    parser.add_argument("--unpartition", action="store_true", help="write partitioned variables whole")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    add_replacing(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    """Convert."""
    report = verbs.convert(
        args.checkpoint,
        args.out,
        to=args.to,
        unpartition=args.unpartition,
        wait=args.wait,
        dry_run=args.dry_run,
        force=args.force,
    )
    render.report(report, args.dry_run, args.json)
    return 0
