"""The live view of a run on a terminal: a few lines that are redrawn, with warnings above them.

A thread draws: a few times per second while rounds finish, and once per second during a long round, to show the elapsed
time. The driver only records each round, so that a terminal that is slow, stopped (Ctrl-S) or closed does not delay
the run.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...errors import printable
from ...publish import write_all
from .. import render
from ..streams import complain

if TYPE_CHECKING:
    from ...ring.history import History
    from ...ring.lines import Measured
    from ...ring.schedule import Limits

_LOOK = 0.2  # seconds between checks for something new to draw
_TICK = 1.0  # seconds after which the elapsed time is redrawn
_SPEED_OVER = 30.0  # seconds over which speed is measured
_TREND = 10  # number of measurements from which convergence is estimated
_GAP = "   "


class Point(NamedTuple):
    """The progress at a point in time."""

    time: float
    step: int
    round: int


class Progress:
    """The visible progress of a run, as of the last round.

    Args:
        stop: the conditions that end the run.
        trunk: the name of the trunk in measurements.
        now: the time at which the driver began.
    """

    def __init__(self, stop: Limits, trunk: str, now: float) -> None:
        self._stop = stop
        self._trunk = trunk
        self._began = now
        self._points: deque[Point] = deque()
        self._rounds = 0  # rounds added
        self._trends: tuple[deque[tuple[int, float]], ...] = (deque(maxlen=_TREND), deque(maxlen=_TREND))
        self._losses: Mapping[str, float | None] = {}
        self._measured: Measured | None = None

    def add(self, history: History, now: float) -> None:
        """Add a round."""
        self._rounds += 1
        if self._rounds == 1:
            first = history.schedule.first_step(history.round) - 1
            self._points.append(Point(self._began, first, history.round - 1))
        self._points.append(Point(now, history.step, history.round))
        if self._rounds == 2:  # exclude the first round, in which trainers started, from the speed
            self._points.popleft()
        while len(self._points) > 2 and self._points[1].time <= now - _SPEED_OVER:
            self._points.popleft()
        self._losses = {name: history.loss(name) for name in history.models}
        self._measured = history.measured
        change = history.last.measured.change if history.last else None
        if change:
            models = max(value for name, value in change.items() if name != self._trunk)
            limits = ((models, self._stop.tolerance), (change.get(self._trunk), self._stop.trunk_tolerance))
            for trend, (value, limit) in zip(self._trends, limits, strict=True):
                if value and limit:
                    trend.append((history.round, value / limit))

    def lines(self, now: float, width: int, height: int) -> tuple[list[str], list[str]]:
        """Return the lines about the run as a whole, and the table of its models, header first.

        Args:
            now: the current time.
            width: columns of the terminal.
            height: lines of the terminal; the two results together have at most this many.
        """
        facts = _wrapped(self._facts(now), width)[:height]
        table = _aligned(self._columns(), width) if self._points else []
        room = height - len(facts)
        if len(table) > room:
            table = [*table[: max(0, room - 1)], f"… {len(table) - room + 1} more"[:width]][:room]
        return facts, table

    def _facts(self, now: float) -> list[str]:
        elapsed = f"{duration(now - self._began)} elapsed"
        if not self._points:
            return ["starting", elapsed]
        last, limit, facts = self._points[-1], self._stop.rounds, []
        facts.append(f"round {last.round:,}" if limit is None else f"round {last.round:,} of {limit:,}")
        first = self._points[0]
        seconds = last.time - first.time
        if seconds > 0:
            speed = (last.step - first.step) / seconds
            facts.append(f"{speed:,.0f} steps/s" if speed >= 10 else f"{speed:.2g} steps/s")
        facts.append(elapsed)
        since = now - last.time
        words, rounds = self._left()
        if seconds > 0 and 0 < rounds < math.inf:
            left = rounds * seconds / (last.round - first.round) - since
            facts.append(f"{words}{duration(max(0.0, left + 0.5))} left")
        if since >= 2 * _TICK:
            facts.append(f"round {last.round + 1:,} since {duration(since)}")
        return facts

    def _left(self) -> tuple[str, float]:
        """Return how sure the estimate is, in words, and the number of remaining rounds; infinite if unknown."""
        stop, now = self._stop, self._points[-1].round
        converged = min(crossing(trend) for trend in self._trends)
        limit = math.inf if stop.rounds is None else stop.rounds
        if converged < limit:
            return "about ", max(0.0, converged - now)
        may_converge = (stop.tolerance, stop.trunk_tolerance, stop.patience) != (None, None, None)
        return "at most " if may_converge else "", max(0.0, limit - now)

    def _columns(self) -> list[tuple[str, list[str]]]:
        """Return the table's columns, each with its header and its values for the models and the trunk."""
        measured, stop = self._measured, self._stop
        known: list[tuple[str, Mapping[str, float | None]]] = [("loss", self._losses)]
        if measured is not None:
            goal = "" if stop.tolerance is None else f" (to {stop.tolerance:g})"
            known += [("held out", measured.held_out or {}), (f"change{goal}", measured.change or {})]
            known += [("distance", measured.distance or {})]
        names = [*self._losses, *([self._trunk] if any(self._trunk in values for _, values in known) else [])]
        columns = [(head, [number(values.get(name)) for name in names]) for head, values in known if values]
        return [("model", names), *columns]


def crossing(trend: Sequence[tuple[int, float]]) -> float:
    """Return the round at which a quantity that falls like a power of the round reaches 1; infinite if it never does.

    Args:
        trend: pairs of a round, from 1, and the value measured then, above 0.
    """
    points = [(math.log(round), math.log(value)) for round, value in trend if math.isfinite(value)]
    if len(points) < 3:
        return math.inf
    x, y = (math.fsum(values) / len(points) for values in zip(*points, strict=True))
    slope = math.fsum((a - x) * (b - y) for a, b in points) / math.fsum((a - x) ** 2 for a, _ in points)
    if slope >= 0:
        return math.inf
    at = x - y / slope
    return math.exp(at) if at < 50 else math.inf


def duration(seconds: float) -> str:
    """Format a time for a person: 0:07, 12:34, 1:02:03, 3 days 4:05:06."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} day{'s' * (days != 1)} {text}" if days else text


def number(value: float | None) -> str:
    """Format a number so that its width does not change with its value."""
    if value is None:
        return "-"
    plain = value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value)
    return f"{value:.4f}" if plain else f"{value:.2e}"


def _wrapped(facts: Sequence[str], width: int) -> list[str]:
    """Join facts side by side, in as many lines as necessary."""
    lines = [facts[0]]
    for fact in facts[1:]:
        if len(lines[-1]) + len(_GAP) + len(fact) <= width:
            lines[-1] += _GAP + fact
        else:
            lines.append(fact)
    return [line[:width] for line in lines]


def _aligned(columns: Sequence[tuple[str, list[str]]], width: int) -> list[str]:
    """Format the columns that fit as a table, with numbers right-aligned."""
    lines = [""] * (1 + len(columns[0][1]))
    for place, (head, cells) in enumerate(columns):
        room = max(map(len, (head, *cells)))
        if place > 1 and len(lines[0]) + len(_GAP) + room > width:
            break
        texts = [text.rjust(room) if place else text.ljust(room) for text in (head, *cells)]
        lines = [line + _GAP * bool(place) + text for line, text in zip(lines, texts, strict=True)]
    return [line[:width] for line in lines]


class Live:
    """Draws the progress of a run on the terminal at standard output, until closed.

    Args:
        progress: what to draw; `round` adds to it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._fd = sys.stdout.fileno()
        self._warns = sys.stderr.isatty()
        self._lock = threading.Lock()  # guards the attributes below; never held while writing to the terminal
        self._above: list[str] = []
        self._news = False
        self._drawn: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_ended, daemon=True)
        sys.stdout.flush()
        self._thread.start()

    def round(self, history: History) -> None:
        """Add a round."""
        with self._lock:
            self._progress.add(history, time.monotonic())
            self._news = True

    def warn(self, line: str) -> None:
        """Show a warning: above the view, or on standard error if that is not the terminal."""
        line = f"warning: {line}"
        if not self._warns:
            complain(line)
            return
        line = f"ckptsurgeon: {printable(line)}"
        with self._lock:
            self._above.append(line)
            self._news = True

    def close(self) -> None:
        """Draw one last time; later output appears below the view."""
        self._ended.set()
        self._thread.join(_TICK)  # times out if the terminal is stopped

    def _draw_until_ended(self) -> None:
        drawn = -_TICK
        try:
            while not self._ended.wait(_LOOK):
                now = time.monotonic()
                if self._news or now - drawn >= _TICK:
                    drawn = now
                    self._draw(now)
            if self._news or self._drawn:
                self._draw(time.monotonic())
        except OSError:  # the terminal is gone, but the run continues
            return

    def _draw(self, now: float) -> None:
        """Write warnings and the view over the last drawing, in a single write to avoid flickering."""
        width, height = os.get_terminal_size(self._fd)
        with self._lock:
            above, self._above, self._news = self._above, [], False
            # the cursor is below the view; if the terminal scrolled, the first line would be out of reach
            facts, table = self._progress.lines(now, max(1, width), max(1, height - 1))
        # a terminal that became narrower has wrapped the lines that are now too long
        up = sum(max(1, -(-len(line) // max(1, width))) for line in self._drawn)
        self._drawn = [*facts, *table]
        shown = [*above, *facts, *map(render.bold, table[:1]), *table[1:]]
        text = (f"\x1b[{up}A" if up else "") + "\r" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J"
        write_all(self._fd, text.encode())
