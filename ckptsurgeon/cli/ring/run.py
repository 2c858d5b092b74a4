"""The verb `ring run`."""

from __future__ import annotations

import os
import sys
import time

from ...errors import UsageError
from .. import render
from ..options import add_json
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...ring.history import History
    from ..parser import Arguments, Parser
    from .live import Live

HELP = """ckptsurgeon ring run DIR [--until rounds=N|tolerance=X] [--anyway] [--no-adopt] [--json] [-q]

Train until the weights of all models have converged, or up to the limit of rounds. Started again, it continues where it
stopped, even if it was killed. On a terminal it shows its progress. In a pipe it prints one line per round: the round's
number, the loss of each model, and, if it was measured, the largest change of a model's weights.

Between two calls, models may be operated on: `ckptsurgeon set R/a NAME VALUE` changes the latest checkpoint of model a,
and the run continues from it. The variables, their dtypes and their shapes must stay the same.

  ckptsurgeon ring run R
  ckptsurgeon ring run R --until rounds=100
  ckptsurgeon ring run R --until tolerance=0.001 --json
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring run`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument(
        "--until",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="rounds=N or tolerance=X, in place of the limits in ring.toml, for this run only",
    )
    parser.add_argument("--anyway", action="store_true", help="continue although TensorFlow or the machine has changed")
    parser.add_argument(
        "--no-adopt", action="store_true", help="refuse checkpoints that were edited since the last run"
    )
    add_json(parser)
    parser.add_argument("-q", dest="quiet", action="store_true", help="print nothing but errors")


def run(args: Arguments) -> int:
    """Drive a run to its end."""
    from ...ring import driver

    limits = _limits(args.until)
    shown = _on_a_terminal(args, limits) or _Lines(args.json, args.quiet)
    try:
        done = driver.run(
            args.folder, **limits, anyway=args.anyway, adopt=not args.no_adopt, warn=shown.warn, on_round=shown.round
        )
    finally:
        shown.close()
    if args.json and not args.quiet:
        render.emit([{"state": done.reason, "round": done.round, "criterion": done.criterion}], [], True)
    elif not args.quiet:
        print(done)
    return 0


def _on_a_terminal(args: Arguments, limits: dict[str, Any]) -> Live | None:
    """Return the live view, or None if standard output is not a terminal or another output was requested."""
    if args.json or args.quiet or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    from ...ring import folder
    from ...ring.schedule import TRUNK
    from ...ring.spec import loading
    from .live import Live, Progress

    stop = loading.load(folder.existing(args.folder).spec).stop.until(**limits)
    return Live(Progress(stop, TRUNK, time.monotonic()))


def _limits(until: list[str]) -> dict[str, Any]:
    """Return the values of `--until` as arguments of `driver.run`."""
    limits: dict[str, Any] = {}
    for text in until:
        key, _, value = text.partition("=")
        try:
            limits[key] = {"rounds": int, "tolerance": float}[key](value)
        except (KeyError, ValueError):
            raise UsageError(f"--until {text}", expected="rounds=N or tolerance=X") from None
        if not limits[key] >= (1 if key == "rounds" else 0):  # NaN is not either
            raise UsageError(f"--until {text}", expected="1 round or more, a tolerance of 0 or more")
    return limits


class _Lines:
    """Prints one line per round, as JSON or as text.

    Args:
        as_json: print JSON.
        quiet: print nothing.
    """

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._json = as_json
        self._quiet = quiet

    def round(self, past: History) -> None:
        """Print a round."""
        from ...ring.schedule import TRUNK

        if self._quiet:
            return
        losses = {name: past.loss(name) for name in past.models}
        measured = past.last.measured if past.last else past.measured
        if self._json:
            row = {"round": past.round, "loss": losses, "change": measured.change, "held_out": measured.held_out}
            render.emit([row], [], True)
        else:
            # A model that joined in the middle of the round was not measured.
            changes = [value for name, value in (measured.change or {}).items() if name != TRUNK]
            change = max(changes, default=None)
            print("\t".join(map(render.text, (past.round, *losses.values(), change))))
        sys.stdout.flush()

    def warn(self, line: str) -> None:
        """Print a warning."""
        complain(f"warning: {line}")

    def close(self) -> None:
        """Do nothing: every line is already printed."""
