"""The verb `layers`."""

from __future__ import annotations

from ...verbs import listing
from .. import render
from ..options import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon layers CKPT [--scheme PATTERN] [--json]

List the layers of a checkpoint by every scheme that fits its names; variables outside all layers come last, as layer -.
If no known scheme fits, schemes are inferred from the names; each is named by its pattern, which --scheme accepts.

  ckptsurgeon layers model.ckpt
  ckptsurgeon layers model.ckpt --json
  ckptsurgeon layers model.ckpt --scheme 'dnn/layer{K}/Linear/*'
"""

COLUMNS = ["layer", "scheme", "variables", "parameters", "bytes"]


def add_arguments(parser: Parser) -> None:
    """The arguments of `layers`."""
    add_checkpoint(parser)
    parser.add_argument("--scheme", metavar="PATTERN", help="how layers are named: 'tower/{K}/**', or a scheme's name")
    add_json(parser)


def run(args: Arguments) -> int:
    """List layers."""
    render.emit(listing.layers(args.checkpoint, args.scheme), COLUMNS, args.json)
    return 0
