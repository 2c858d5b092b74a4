"""The verb `ring check`."""

from __future__ import annotations

import sys

from . import render
from .parser import add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from typing import Any

HELP = """ckptsurgeon ring check DIR [--json]

Try each model's trainer: does it do what a ring asks of it? It works on copies of the model's present checkpoint, in a
folder for temporary files (TMPDIR); nothing of the run changes, and none may drive it meanwhile. One line a check:

  train     answers for the step it was asked for; writes a finite checkpoint with the names, shapes and dtypes given
  reads     goes on from the checkpoint: the same request with another one gives other weights
  repeat    the same request gives the same bytes, with other steps between: no weights are kept in memory
  input     the checkpoint and the rows that it is given are left as they were
  init      first weights depend on the seed, and on nothing else (workers without 'init' in ring.toml)
  end       exits within 5 seconds at the end of its input (workers)
  restart   a new process gives the same bytes again
  sigterm   dies of SIGTERM
  predict   its 'predict' program says something of rows (models that have one)

The exit status is 1 if a trainer failed a check. A trainer that fails the first is asked nothing more.

  ckptsurgeon ring check R
  ckptsurgeon ring check R --json
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ring check`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    add_json(parser)


def run(args: Namespace) -> int:
    """Try the trainers."""
    from ..ring import checking

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
