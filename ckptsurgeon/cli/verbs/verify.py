"""The verb `verify`."""

from __future__ import annotations

import sys

from ...verbs import looking
from .. import render
from ..options import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon verify CKPT [--all] [--finite] [--json]

Check every checksum and bound, and look for overlaps. Prints what is damaged; exit status 0: sound, 1: damaged.

  ckptsurgeon verify model.ckpt
  ckptsurgeon verify model.ckpt --all --json
  ckptsurgeon verify model.ckpt --finite
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `verify`."""
    add_checkpoint(parser)
    parser.add_argument("--all", action="store_true", help="also what is sound, and bytes that no variable refers to")
    parser.add_argument("--finite", action="store_true", help="NaN and infinite values are damage too")
    add_json(parser)


def run(args: Arguments) -> int:
    """Verify."""
    findings = looking.verify(args.checkpoint, args.finite)
    damaged = [finding for finding in findings if not finding.ok]
    rows = [
        {"file": finding.file, "name": finding.name, "problem": finding.problem, "ok": finding.ok}
        for finding in (findings if args.all else damaged)
    ]
    if rows or args.json or not sys.stdout.isatty():
        render.emit(rows, ["file", "name", "problem"], args.json)
    else:
        print("sound")
    return 1 if damaged else 0
