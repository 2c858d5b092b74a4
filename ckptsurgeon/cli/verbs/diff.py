"""The verb `diff`."""

from __future__ import annotations

import sys

from ...verbs import looking
from .. import render
from ..options import add_json, add_selection, layers_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon diff A B [GLOB...] [options]

Print which variables differ: changed, dtype, shape, removed (only in A), added (only in B). Exit status 0: none differ,
1: some differ, 2: an error. Layers are counted on A. If both checkpoints store checksums of the same bytes, these are
compared and no tensor is read; otherwise values are compared byte by byte: 0 and -0 differ, NaNs of the same bits do
not. Variants and pickled objects are compared as they are stored.

Variables of the same name are compared. If the checkpoints share almost no names but number their layers alike, such as
a model's .h5 and .keras, variables are paired within layers as graft pairs them, then slots of the same kind and the
optimizer's own variables; pairs are printed as A=B, as --map takes them, and with --json as name and name_b.

  ckptsurgeon diff a.ckpt b.ckpt || echo 'they differ'
  ckptsurgeon diff model.ckpt dst.ckpt --layers 0-1 --values --json
  ckptsurgeon diff src.ckpt a.ckpt '**/Bias' --tolerance 1e-6 --all

--values adds two columns for numbers (bool as 0 and 1), computed in float64: max_abs, the largest |a - b|, and rel_l2,
the norm of a - b divided by the norm of a. NaN in both places is no difference; NaN in only one makes both NaN.
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `diff`."""
    parser.add_argument("a", metavar="A", help="a checkpoint: a prefix, any of its files, or a folder")
    parser.add_argument("b", metavar="B", help="another checkpoint")
    parser.add_argument("globs", metavar="GLOB", nargs="*", default=[], help="only these names")
    add_selection(parser)
    parser.add_argument("--all", action="store_true", help="also print variables that are the same")
    parser.add_argument("--values", action="store_true", help="print how far numbers differ; reads those variables")
    parser.add_argument("--exact", action="store_true", help="always compare bytes, even if checksums agree")
    parser.add_argument(
        "--tolerance", metavar="X", type=float, help="numbers are the same if max_abs <= X; the rest by bytes"
    )
    add_json(parser)


def run(args: Arguments) -> int:
    """Compare."""
    found = looking.diff(
        args.a,
        args.b,
        layers=layers_of(args),
        match=[*args.globs, *args.match],
        exclude=args.exclude,
        scheme=args.scheme,
        exact=args.exact,
        values=args.values,
        tolerance=args.tolerance,
    )
    different = [each for each in found if each.status != "same"]
    rows: list[dict[str, object]] = []
    for each in found if args.all else different:
        row: dict[str, object] = {"status": each.status, "name": each.name, "name_b": each.name_b}
        if not args.json and each.name_b not in (None, each.name):
            row["name"] = f"{each.name}={each.name_b}"
        if args.values:
            row |= {"max_abs": each.max_abs, "rel_l2": each.rel_l2}
        rows.append(row)
    if rows or args.json or not sys.stdout.isatty():
        columns = ["status", "name"] + (["max_abs", "rel_l2"] if args.values else [])
        render.emit(rows, columns, args.json)
    else:
        print("no difference")
    return 1 if different else 0
