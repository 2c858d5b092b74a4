"""The live view of a run on a terminal: a few lines that are drawn over, warnings above them.

A thread draws, a few times a second while rounds go by, and once a second in a long round, so that its time is seen to
pass. The driver only leaves word of each round: neither a slow terminal nor one that was stopped (Ctrl-S) or closed
holds it up.
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

from ...publish import write_all
from .. import render

if TYPE_CHECKING:
    from ...ring.history import History, Measured
    from ...ring.schedule import Limits

_LOOK = 0.2  # seconds between two looks at whether there is anything new to draw
_TICK = 1.0  # seconds after which the time itself is news
_SPEED_OVER = 30.0  # seconds over which speed is measured
_TREND = 10  # measurements that an estimate of convergence goes by
_GAP = "   "


class Point(NamedTuple):
    """When how much was done."""

    time: float
    step: int
    round: int


class Progress:
    """What there is to see of a run, as of the last round.

    Args:
        stop: when the run ends.
        trunk: the name of the trunk among what is measured.
        now: when the driver began.
    """

    def __init__(self, stop: Limits, trunk: str, now: float) -> None:
        self._stop = stop
        self._trunk = trunk
        self._began = now
        self._points: deque[Point] = deque()
        self._rounds = 0  # that were taken in
        self._trends: tuple[deque[tuple[int, float]], ...] = (deque(maxlen=_TREND), deque(maxlen=_TREND))
        self._losses: Mapping[str, float | None] = {}
        self._measured: Measured | None = None

    def add(self, history: History, now: float) -> None:
        """Take in a round."""
        self._rounds += 1
        if self._rounds == 1:
            first = history.schedule.first_step(history.round) - 1
            self._points.append(Point(self._began, first, history.round - 1))
        self._points.append(Point(now, history.step, history.round))
        if self._rounds == 2:  # speed no longer goes by the first round, in which trainers started
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
        """What is said of the run as a whole, and the table of its models, its head first.

        Args:
            now: the time.
            width: columns of the terminal.
            height: its lines; together there are no more than these.
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
        """How many rounds there are to come, infinite where there is no telling, and how sure that is."""
        stop, now = self._stop, self._points[-1].round
        converged = min(crossing(trend) for trend in self._trends)
        limit = math.inf if stop.rounds is None else stop.rounds
        if converged < limit:
            return "about ", max(0.0, converged - now)
        may_converge = (stop.tolerance, stop.trunk_tolerance, stop.patience) != (None, None, None)
        return "at most " if may_converge else "", max(0.0, limit - now)

    def _columns(self) -> list[tuple[str, list[str]]]:
        """The heads of the table's columns and what stands below: what is known of each model, and of the trunk."""
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
    """The round at which a quantity that falls like a power of the round comes to 1; infinite if it does not fall.

    Args:
        trend: rounds, from 1, and what was measured then, above 0.
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
    """A time as a person reads it: 0:07, 12:34, 1:02:03, 3 days 4:05:06."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days} day{'s' * (days != 1)} {text}" if days else text


def number(value: float | None) -> str:
    """A number that keeps its width while it changes."""
    if value is None:
        return "-"
    plain = value == 0 or 1e-3 <= abs(value) < 1e4 or not math.isfinite(value)
    return f"{value:.4f}" if plain else f"{value:.2e}"


def _wrapped(facts: Sequence[str], width: int) -> list[str]:
    """Facts side by side, in as many lines as it takes."""
    lines = [facts[0]]
    for fact in facts[1:]:
        if len(lines[-1]) + len(_GAP) + len(fact) <= width:
            lines[-1] += _GAP + fact
        else:
            lines.append(fact)
    return [line[:width] for line in lines]


def _aligned(columns: Sequence[tuple[str, list[str]]], width: int) -> list[str]:
    """A table of the columns that fit, numbers to the right."""
    lines = [""] * (1 + len(columns[0][1]))
    for place, (head, cells) in enumerate(columns):
        room = max(map(len, (head, *cells)))
        if place > 1 and len(lines[0]) + len(_GAP) + room > width:
            break
        texts = [text.rjust(room) if place else text.ljust(room) for text in (head, *cells)]
        lines = [line + _GAP * bool(place) + text for line, text in zip(lines, texts, strict=True)]
    return [line[:width] for line in lines]


class Live:
    """Draws the progress of a run on the terminal that is standard output, until it is closed.

    Args:
        progress: what to draw; `round` adds to it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._fd = sys.stdout.fileno()
        self._warns = sys.stderr.isatty()
        self._lock = threading.Lock()  # of what follows, never held while the terminal is written to
        self._above: list[str] = []
        self._news = False
        self._drawn: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_until_ended, daemon=True)
        sys.stdout.flush()
        self._thread.start()

    def round(self, history: History) -> None:
        """Take in a round."""
        with self._lock:
            self._progress.add(history, time.monotonic())
            self._news = True

    def warn(self, line: str) -> None:
        """Show a warning: above the view, unless standard error is not the terminal."""
        line = f"ckptsurgeon: warning: {line}"
        if not self._warns:
            print(line, file=sys.stderr)
            return
        with self._lock:
            self._above.append(line)
            self._news = True

    def close(self) -> None:
        """Draw a last time; what is printed from here on comes below."""
        self._ended.set()
        self._thread.join(_TICK)  # in vain if the terminal is stopped

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
        except OSError:  # the terminal is gone; the run is not
            return

    def _draw(self, now: float) -> None:
        """Write warnings and the view over what was drawn last, in one go, so that nothing flickers."""
        width, height = os.get_terminal_size(self._fd)
        with self._lock:
            above, self._above, self._news = self._above, [], False
            # the cursor is below the view, and a terminal that scrolls would take the first line out of reach
            facts, table = self._progress.lines(now, max(1, width), max(1, height - 1))
        # a terminal that became narrower has wrapped the lines that are now too long for it
        up = sum(max(1, -(-len(line) // max(1, width))) for line in self._drawn)
        self._drawn = [*facts, *table]
        shown = [*above, *facts, *map(render.bold, table[:1]), *table[1:]]
        text = (f"\x1b[{up}A" if up else "") + "\r" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J"
        write_all(self._fd, text.encode())
