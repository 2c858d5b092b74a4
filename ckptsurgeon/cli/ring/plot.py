"""The verb `ring plot`."""

from __future__ import annotations

import sys

from .. import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring plot DIR -o FILE.png

Plot a run, even while it is running: each model's loss on its mini-batches and on the held-out rows, the change of its
weights and of the trunk, and the distance of its trunk from the mean trunk. The ending of FILE selects the format: png,
svg, pdf, ... An existing FILE is replaced. Needs matplotlib: pip install 'ckptsurgeon[plot]'.

  ckptsurgeon ring plot R -o run.png
  ckptsurgeon ring plot R -o run.svg
  watch -n 60 ckptsurgeon ring plot R -o run.png
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring plot`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument("-o", dest="out", metavar="FILE", required=True, help="the picture to write")


def run(args: Arguments) -> int:
    """Plot."""
    from ...ring.reporting import plot

    drawn = plot.plot(args.folder, args.out)
    if sys.stdout.isatty():
        print(f"{render.text(args.out)}: {len(drawn.models)} models, {drawn.rounds} rounds")
    return 0
