"""The verb `ring status`."""

from __future__ import annotations

import sys

from .. import render
from ..options import add_json
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring status DIR [--json]

Show the state of a run: the number of finished rounds; whether it is running, stopped, converged, at its limit or
failed; and for each model its latest step, checkpoint and loss, the last measured change of its weights, and its
trainer's process. A pipe gets one line per model; the reason for a stop or a failure goes to standard error.

  ckptsurgeon ring status R
  ckptsurgeon ring status R --json
  watch ckptsurgeon ring status R
"""

_COLUMNS = ("round", "state", "name", "step", "checkpoint", "loss", "change", "pid")


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring status`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    add_json(parser)


def run(args: Arguments) -> int:
    """Show the state of a run."""
    from ...ring import folder
    from ...ring.reporting import status
    from ...ring.schedule import TRUNK

    report = status.report(folder.existing(args.folder))
    if args.json:
        render.emit([report], [], True)
        return 0
    change = report["change"] or {}
    common = {"round": report["round"], "state": report["state"]}
    rows = [{**common, **model, "change": change.get(model["name"])} for model in report["models"]]
    render.emit(rows, _COLUMNS, False)
    if sys.stdout.isatty():
        if TRUNK in change:
            print(f"change of the trunk: {render.text(change[TRUNK])}")
        if report["reason"]:
            print(render.text(report["reason"]))
    elif report["reason"] and report["state"] in ("stopped", "failed"):
        complain(f"{args.folder}: {report['state']}: {report['reason']}")
    return 0
