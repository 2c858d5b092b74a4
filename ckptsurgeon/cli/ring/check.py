"""The verb `ring check`."""

from __future__ import annotations

import sys

from .. import render
from ..options import add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring check DIR [--json]

Test whether each model's trainer keeps to the contract. Trainers work on copies of the latest checkpoints in a
temporary folder (TMPDIR), so the run does not change. The run must not be running. Prints one line per check:

  train     answers for the requested step, and writes a finite checkpoint with the same names, shapes and dtypes
  reads     continues from the checkpoint: the same request with another checkpoint gives different weights
  repeat    the same request gives the same bytes after other steps: no weights are kept in memory
  input     does not modify the checkpoint and the rows that it is given
  init      initial weights depend only on the seed (workers without 'init' in ring.toml)
  end       exits within 5 seconds after the end of its input (workers)
  restart   a new process gives the same bytes again
  sigterm   dies of SIGTERM
  predict   its 'predict' program returns predictions (models that have one)

The exit status is 1 if a trainer failed a check. A trainer that fails the first check is not tested further.

  ckptsurgeon ring check R
  ckptsurgeon ring check R --json
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring check`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    add_json(parser)


def run(args: Arguments) -> int:
    """Test the trainers."""
    from ...ring import checking

    failed, shows = False, sys.stdout.isatty() and sys.stderr.isatty() and not args.json

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for finding in checking.check(args.folder):
            failed = failed or not finding.ok
            if shows:  # a table is printed at the end, and frameworks take seconds to start
                print(f"\r\x1b[K{finding.model}: {finding.check}", end="", file=sys.stderr, flush=True)
            yield {"model": finding.model, "check": finding.check, "ok": finding.ok, "reason": finding.reason}
        if shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    render.emit(rows(), ("model", "check", "ok", "reason"), args.json)
    return int(failed)
