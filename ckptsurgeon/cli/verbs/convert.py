"""The verb `convert`."""

from __future__ import annotations

from ...verbs import producing
from .. import render
from ..options import add_checkpoint, add_json, add_maps, add_replacing, placing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon convert CKPT OUT [--to FORMAT] [--map A=B] [--unpartition] [options]

Write a checkpoint in another format: bundle (TensorFlow V2), v1 (TensorFlow before 1.0), safetensors, npz or npy, by
OUT's ending or --to. What the format cannot hold is refused, all of it at once; an object graph, which means nothing
outside TensorFlow, is left out. A Keras file can only be written --like an existing one, whose layout and names
it gets. Prints only what was changed in addition to the format.

  ckptsurgeon convert model.ckpt model.safetensors
  ckptsurgeon convert model.ckpt old.ckpt --to v1
  ckptsurgeon convert model.ckpt whole.ckpt --map 'dnn/layer*/Linear/Matrix=layers.*.weight.T' --unpartition --dry-run
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `convert`."""
    add_checkpoint(parser)
    parser.add_argument("out", metavar="OUT", help="the new checkpoint")
    parser.add_argument("--to", metavar="FORMAT", help="bundle, v1, safetensors, npz or npy; default by OUT's ending")
    add_maps(parser, "A (name, glob, prefix/) is called B in OUT; B.T transposes")
    parser.add_argument("--unpartition", action="store_true", help="write partitioned variables whole")
    parser.add_argument("--like", metavar="TEMPLATE", help="a Keras or HDF5 file whose layout and names OUT gets")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    add_replacing(parser)
    add_json(parser)


def run(args: Arguments) -> int:
    """Convert."""
    report = producing.convert(
        args.checkpoint,
        args.out,
        to=args.to,
        maps=args.maps,
        unpartition=args.unpartition,
        like=args.like,
        **placing(args),
    )
    if report.changed:
        render.report(report, args.dry_run, args.json)
    else:
        render.warn(report)
    return 0
