"""The verb `ring run`."""

from __future__ import annotations

import sys
import time

from ..errors import UsageError
from . import render
from .parser import add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

    from ..ring.history import History
    from ..ring.schedule import Done

HELP = """ckptsurgeon ring run DIR [--until rounds=N|tolerance=X] [--anyway] [--json] [-q]

Train until the weights of all models have converged, or to the limit of rounds. Started again, it goes on where it
stopped, however it stopped. In a pipe: one line a round, with the round, the loss of each model, and the largest
change of a model's weights where it was measured.

  ckptsurgeon ring run R
  ckptsurgeon ring run R --until rounds=100
  ckptsurgeon ring run R --until tolerance=0.001 --json
"""

_REDRAW = 0.1  # seconds between two states of the line on a terminal


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ring run`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument(
        "--until",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="rounds=N or tolerance=X, instead of what ring.toml says; for this time only",
    )
    parser.add_argument("--anyway", action="store_true", help="go on although TensorFlow or the machine is another")
    add_json(parser)
    parser.add_argument("-q", dest="quiet", action="store_true", help="print nothing but errors")


def run(args: Namespace) -> int:
    """Drive a run to its end."""
    from ..ring import driver

    limits = _limits(args.until)
    shown = _Rounds(args.json, args.quiet)
    done = driver.run(args.folder, **limits, anyway=args.anyway, tell=shown.tell, on_round=shown.round)
    shown.end(done)
    return 0


def _limits(until: list[str]) -> dict[str, Any]:
    """What `--until` says, as arguments of `driver.run`."""
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


class _Rounds:
    """Shows the rounds as they go by: JSON, plain lines, or one line of a terminal that is drawn over."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._json = as_json
        self._quiet = quiet
        self._redraws = sys.stdout.isatty() and not as_json and not quiet
        self._drawn = 0.0

    def round(self, past: History) -> None:
        """Show a round."""
        losses = {name: past.loss(name) for name in past.models}
        change = past.last.change if past.last else None
        if self._redraws:
            if time.monotonic() - self._drawn >= _REDRAW:
                self._drawn = time.monotonic()
                shown = "  ".join(f"{name} {render.text(loss)}" for name, loss in losses.items())
                latest = max(past.change.values()) if past.change else None
                self._draw(f"round {past.round}  loss {shown}  change {render.text(latest)}")
        elif not self._quiet:
            largest = max(change.values()) if change else None
            row = {"round": past.round, "loss": losses, "change": change}
            if not self._json:
                row = {
                    "round": past.round,
                    **{f"loss {name}": loss for name, loss in losses.items()},
                    "change": largest,
                }
            render.emit([row], list(row), self._json)
            sys.stdout.flush()

    def tell(self, line: str) -> None:
        """Show a line for a person."""
        self._draw("")
        print(f"ckptsurgeon: warning: {line}", file=sys.stderr)

    def end(self, done: Done) -> None:
        """Show how it ended."""
        self._draw("")
        if self._json and not self._quiet:
            render.emit([{"state": done.reason, "round": done.round}], [], True)
        elif not self._quiet:
            print(done)

    def _draw(self, line: str) -> None:
        if self._redraws:
            print(f"\r\x1b[K{line}", end="", flush=True)
