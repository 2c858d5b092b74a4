"""The verb `ring status`."""

from __future__ import annotations

import sys

from . import render
from .parser import add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP = """ckptsurgeon ring status DIR [--json]

How a run stands: whole rounds, running, stopped, converged, limit or failed, and each model's latest checkpoint.

  ckptsurgeon ring status R
  ckptsurgeon ring status R --json
  watch ckptsurgeon ring status R
"""

_COLUMNS = ("round", "state", "name", "step", "checkpoint", "loss", "change", "pid")


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ring status`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    add_json(parser)


def run(args: Namespace) -> int:
    """Show how a run stands."""
    from ..ring import folder, status

    report = status.report(folder.existing(args.folder))
    if args.json:
        render.emit([report], [], True)
        return 0
    change = report["change"] or {}
    common = {"round": report["round"], "state": report["state"]}
    rows = [{**common, **model, "change": change.get(model["name"])} for model in report["models"]]
    render.emit(rows, _COLUMNS, False)
    if report["reason"] and sys.stdout.isatty():
        print(report["reason"])
    return 0
