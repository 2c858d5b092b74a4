"""The verb `rename`."""

from __future__ import annotations

from ...verbs import changing
from .. import render
from ..options import add_backup, add_checkpoint, add_writing, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon rename CKPT A=B... [options]

Rename variables; their slots are renamed with them, and an object graph is updated. A is a name, a prefix that ends
in /, a glob whose wildcards fill those of B in order, or with --regex an expression that may match anywhere in a name
(names of at most 1,000 characters). Two variables never get the same name. No values are copied. Names by which a
SavedModel or Keras finds weights can only be changed with --anyway.

  ckptsurgeon rename model.ckpt dnn/layer0/Linear/Matrix=dnn/layer0/kernel
  ckptsurgeon rename model.ckpt 'dnn/layer*/Linear/Bias=tower/block*/bias' --dry-run
  ckptsurgeon rename model.ckpt --regex 'layer(\\d+)=hidden_\\1' -o new.ckpt
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `rename`."""
    add_checkpoint(parser)
    parser.add_argument("renames", metavar="A=B", nargs="+", help="old and new name, prefix or glob")
    parser.add_argument("--regex", action="store_true", help="A is a regular expression, B its replacement")
    add_writing(parser)
    add_backup(parser)


def run(args: Arguments) -> int:
    """Rename."""
    report = changing.rename(
        args.checkpoint,
        args.renames,
        regex=args.regex,
        **writing(args),
    )
    render.report(report, args.dry_run, args.json)
    return 0
