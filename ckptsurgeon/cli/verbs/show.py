"""The verb `show`."""

from __future__ import annotations

import sys

from ...verbs import looking
from .. import render
from ..options import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon show CKPT [GLOB...] [--json]

Print statistics of variables: min, max, mean, std and the share of zeros over the finite elements, and how many are
NaN or infinite; on a terminal and with --json also a histogram. Complex numbers count by magnitude. Strings have no
statistics; a terminal shows their beginning.

  ckptsurgeon show model.ckpt
  ckptsurgeon show model.ckpt 'dnn/layer1/**' --json
  ckptsurgeon show model.ckpt dnn/layer0/Linear/Matrix
"""

COLUMNS = ["name", "dtype", "shape", "min", "max", "mean", "std", "zeros", "nan", "inf"]
_LEVELS = "▁▂▃▄▅▆▇█"
_BEGINNING = 40  # characters of a string
_WIDTH = 50  # of the longest bar


def add_arguments(parser: Parser) -> None:
    """The arguments of `show`."""
    add_checkpoint(parser)
    parser.add_argument("globs", metavar="GLOB", nargs="*", default=[], help="only these names")
    add_json(parser)


def run(args: Arguments) -> int:
    """Show."""
    drawn = sys.stdout.isatty() and not args.json
    rows = looking.show(args.checkpoint, args.globs, strings=_BEGINNING if drawn else 0)
    if drawn:
        rows = [{**row, "values": _drawn(row)} for row in rows]
    render.emit(rows, [*COLUMNS, "values"] if drawn else COLUMNS, args.json)
    if drawn and len(rows) == 1 and rows[0]["histogram"]:
        print("\n".join(bars(rows[0]["histogram"])))
    return 0


def _drawn(row: dict[str, Any]) -> str | None:
    """The last column on a terminal: a histogram in one line, or the beginning of strings."""
    if row["histogram"]:
        return sparkline(row["histogram"]["counts"])
    return None if row["strings"] is None else beginning(row["strings"])


def sparkline(counts: list[int]) -> str:
    """A histogram in one line; an empty bin is blank, any other at least the lowest block."""
    top = max(counts)
    return "".join(_LEVELS[-(-count * len(_LEVELS) // top) - 1] if count else " " for count in counts)


def bars(histogram: dict[str, Any]) -> list[str]:
    """A histogram line by line: the bin's first edge, a bar, and the count."""
    edges, counts = histogram["edges"], histogram["counts"]
    labels = [render.text(float(edge)) for edge in edges[:-1]]
    width, top = max(map(len, labels)), max(counts)
    return [
        f"{label:>{width}}  {'█' * -(-count * _WIDTH // top)} {count}"
        for label, count in zip(labels, counts, strict=True)
    ]


def beginning(strings: list[bytes]) -> str:
    """The beginning of strings, on one line."""
    shown = " ".join(each[: _BEGINNING + 1].decode("utf-8", "backslashreplace") for each in strings)
    return shown if len(shown) <= _BEGINNING else shown[:_BEGINNING] + "…"
