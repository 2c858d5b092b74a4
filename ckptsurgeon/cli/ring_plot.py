"""The verb `ring plot`."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = """ckptsurgeon ring plot DIR -o FILE.png

Draw a run, also while it goes on: each model's loss, on its mini-batches and on the held-out rows; how much its weights
and the trunk's still move; how far its trunk is from the mean of all trunks. FILE's ending says what kind of picture it
is: png, svg, pdf, …; one that is there is replaced. Needs matplotlib: pip install 'ckptsurgeon[plot]'.

  ckptsurgeon ring plot R -o run.png
  ckptsurgeon ring plot R -o run.svg
  watch -n 60 ckptsurgeon ring plot R -o run.png
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ring plot`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument("-o", dest="out", metavar="FILE", required=True, help="the picture")


def run(args: Namespace) -> int:
    """Draw."""
    from ..ring.reporting import plot

    drawn = plot.plot(args.folder, args.out)
    if sys.stdout.isatty():
        print(f"{args.out}: {len(drawn.models)} models, {drawn.rounds} rounds")
    return 0
