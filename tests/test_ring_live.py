"""The live view of `ring run`, on real pseudo-terminals that pyte, a terminal in Python, displays."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from ring_rounds import NAMES, fresh, play
from ring_support import write_ring
from waiting import LIMIT, wait_until

from ckptsurgeon.cli.ring import live
from ckptsurgeon.cli.ring.live import Live, Progress
from ckptsurgeon.ring import start
from ckptsurgeon.ring.schedule import TRUNK
from ckptsurgeon.ring.spec.records import Stop

STOP = Stop(tolerance=0.01, window=2, rounds=5000)


class Terminal:
    """A pseudo-terminal that is read and displayed until whoever writes to it has closed it."""

    def __init__(self, columns: int = 100, rows: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.resize(columns, rows)
        self.raw = b""
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def resize(self, columns: int, rows: int) -> None:
        """Tell whoever asks that the terminal has another size."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # all writers have closed it
                return
            with self._lock:
                self.raw += data
                self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """What is displayed, without empty lines at the end, and what has scrolled out above."""
        with self._lock:
            above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
            lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Return the lines as soon as they are as expected."""
        found: list[str] = []

        def is_shown() -> bool:
            found[:] = self.lines
            return condition(found)

        wait_until(is_shown, found)
        return found

    def close(self) -> None:
        """Let go of the writing end, and read what is left."""
        os.close(self.slave)
        self._thread.join(LIMIT)
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Return a terminal that is standard output and standard error once it is attached."""
    found = Terminal()
    yield found
    found.close()


def attach(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a terminal standard output and standard error; it is looked at often."""
    file = open(fd, "w", closefd=False)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(live, "_LOOK", 0.005)


def view(
    rounds: int, stop: Stop = STOP, every: float = 2.0, after: float = 0.0, size: tuple[int, int] = (200, 50)
) -> list[str]:
    """Return the lines after some rounds of so many seconds each."""
    progress = Progress(stop, TRUNK, 100.0)
    for history in play(fresh(), rounds):
        progress.add(history, 100.0 + every * history.round)
    facts, table = progress.lines(100.0 + every * rounds + after, *size)
    return [*facts, *table]


def test_before_the_first_round_the_time_is_seen() -> None:
    """Trainers may take long to start."""
    assert view(0, after=65.0) == ["starting   1:05 elapsed"]


def test_all_is_shown_that_is_known() -> None:
    """Round, speed, time, and a table of the models and the trunk."""
    assert view(3) == [
        "round 3 of 5,000   3.5 steps/s   0:06 elapsed   at most 2:46:34 left",
        "model     loss   held out   change (to 0.01)   distance",
        "a       0.3333     0.5000             0.5000     0.5000",
        "b       1.3333     0.3333             0.3333     0.3333",
        "c       2.3333          -             0.2500     0.2500",
        "trunk        -          -             0.2500          -",
    ]
    assert view(1)[1:] == ["model     loss", "a       1.0000", "b       2.0000", "c       3.0000"]


def test_the_first_round_does_not_slow_down_the_others() -> None:
    """Trainers start in it; as long as there is no other, it has to do."""
    progress, histories = Progress(STOP, TRUNK, 0.0), play(fresh(), 3)
    speeds = []
    for now in (70.0, 71.0, 72.0):
        progress.add(next(histories), now)
        speeds.append(progress.lines(now, 200, 50)[0][0].split("   ")[1])
    assert speeds == ["0.1 steps/s", "7 steps/s", "7 steps/s"]


def test_speed_is_that_of_the_last_half_minute() -> None:
    """And of one round at least."""
    progress, histories, now = Progress(STOP, TRUNK, 0.0), play(fresh(), 140), 0.0
    for round in range(140):
        now += 0.1 if round < 100 else 1.0
        progress.add(next(histories), now)
    assert "   7 steps/s   " in progress.lines(now, 200, 50)[0][0]


def test_a_long_round_shows_its_time() -> None:
    """From two seconds on; the time that is left goes on to run down, not below zero."""
    stop = Stop(tolerance=None, rounds=10)
    assert view(8, stop, every=60, after=90)[0].endswith("   9:30 elapsed   0:30 left   round 9 since 1:30")
    assert view(8, stop, every=60, after=900)[0].endswith("   0:00 left   round 9 since 15:00")


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (Stop(tolerance=None, rounds=100), "   0:40 left"),
        (Stop(tolerance=0.01, rounds=61), "   at most 0:01 left"),
        (Stop(tolerance=None, patience=3, rounds=100), "   at most 0:40 left"),
        (Stop(tolerance=0.01, rounds=5000), "   about 0:40 left"),
        (Stop(tolerance=0.01, rounds=None), "   about 0:40 left"),
        (Stop(tolerance=0.01, trunk_tolerance=0.00714286, rounds=None), "   about 0:10 left"),
        (Stop(tolerance=None, patience=3, rounds=None), "   1:00 elapsed"),
        (Stop(tolerance=0.01, rounds=60), "   1:00 elapsed"),
        (Stop(tolerance=0.1, rounds=5000), "   1:00 elapsed"),
    ],
)
def test_what_is_left_goes_by_the_limit_or_by_the_trend(stop: Stop, words: str) -> None:
    """Changes fall like 1/round here: model a's comes to 0.01 in round 100, the trunk's to 0.00714 in round 70."""
    assert view(60, stop, every=1.0)[0].endswith(words)


@pytest.mark.parametrize(
    ("trend", "expected"),
    [
        ([(n, 50.0 / n) for n in (10, 20, 30)], 50.0),
        ([(n, (40.0 / n) ** 2) for n in (10, 11, 30, 31)], 40.0),
        ([(10, 5.0), (20, 2.5)], math.inf),
        ([(10, 5.0), (20, 5.0), (30, 5.0)], math.inf),
        ([(10, 5.0), (20, 6.0), (30, 7.0)], math.inf),
        ([(10, 5.0), (20, math.inf), (30, 1.0)], math.inf),
        ([(10, 1e300), (11, 0.99e300), (12, 0.98e300)], math.inf),
    ],
)
def test_a_trend_says_where_it_leads(trend: list[tuple[int, float]], expected: float) -> None:
    """Nowhere, if there are less than three points, or they do not fall."""
    assert live.crossing(trend) == pytest.approx(expected)


def test_times_and_numbers_are_short() -> None:
    """And keep their width while they change a little."""
    times = {0.9: "0:00", 59: "0:59", 754: "12:34", 3723: "1:02:03", 86400: "1 day 0:00:00", 273906: "3 days 4:05:06"}
    assert {seconds: live.duration(seconds) for seconds in times} == times
    numbers = {0.0: "0.0000", 0.5: "0.5000", -12.34567: "-12.3457", 1e-4: "1.00e-04", 5e4: "5.00e+04"}
    assert {value: live.number(value) for value in numbers} == numbers
    assert [live.number(value) for value in (None, math.nan, math.inf)] == ["-", "nan", "inf"]


def test_any_terminal_is_large_enough() -> None:
    """Nothing wraps or scrolls: facts go to more lines, columns and models that have no room are left out."""
    for columns in range(1, 100, 7):
        for rows in range(1, 9):
            lines = view(3, size=(columns, rows))
            assert 1 <= len(lines) <= rows
            assert all(len(line) <= columns for line in lines)
    assert view(3, size=(40, 50))[:3] == ["round 3 of 5,000   3.5 steps/s", "0:06 elapsed   at most 2:46:34 left",
                                          "model     loss   held out"]  # fmt: skip
    assert view(3, size=(100, 4))[1:] == [view(3)[1], view(3)[2], "… 3 more"]


def test_the_view_is_drawn_over_and_warnings_stay_above(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line once, whatever was drawn in between; what is printed afterwards comes below."""
    attach(terminal.slave, monkeypatch)
    shown, history = Live(Progress(STOP, TRUNK, time.monotonic())), fresh()
    terminal.wait_for(lambda lines: [line.split()[0::2] for line in lines] == [["starting", "elapsed"]])
    for number in range(1, 6):
        list(map(shown.round, play(history, 1)))
        shown.warn(f"warning {number}" + " that is long" * 20)
        terminal.wait_for(lambda lines, number=number: f"round {number} of 5,000" in "".join(lines))
    list(map(shown.round, play(history, 1)))
    shown.close()
    print("the end", flush=True)
    lines = terminal.wait_for(lambda lines: lines[-1] == "the end")
    assert "".join(lines[:15]) == "".join(
        f"ckptsurgeon: warning: warning {number}{' that is long' * 20}" for number in range(1, 6)
    )
    assert lines[15].startswith("round 6 of 5,000")
    assert [line.split()[0] for line in lines[16:]] == ["model", *NAMES, "trunk", "the"]


def test_rounds_are_drawn_a_few_times_a_second(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: what comes between two looks is drawn at the second, or at the end."""
    attach(terminal.slave, monkeypatch)
    monkeypatch.setattr(live, "_LOOK", 3600.0)
    drawn: list[float] = []  # when
    draw = Live._draw
    monkeypatch.setattr(Live, "_draw", lambda self, now: (drawn.append(now), draw(self, now))[1])
    shown = Live(Progress(STOP, TRUNK, time.monotonic()))
    for history in play(fresh(), 3000):
        shown.round(history)
    assert not drawn
    shown.close()
    shown._thread.join(LIMIT)
    assert len(drawn) == 1
    terminal.wait_for(lambda lines: len(lines) == 6 and lines[0].startswith("round 3,000 of 5,000"))


def test_a_terminal_that_became_narrower_is_drawn_anew(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its new width."""
    attach(terminal.slave, monkeypatch)
    shown = Live(Progress(STOP, TRUNK, time.monotonic()))
    histories = play(fresh(), 4)
    shown.round(next(histories))
    shown.round(next(histories))
    terminal.wait_for(lambda lines: len(lines) == 6)
    terminal.resize(30, 24)
    shown.round(next(histories))
    shown.close()

    def narrow() -> list[str]:
        """The frames of round 3 in the new width; one that was begun before has the old one, which wraps."""
        text = terminal.raw.decode().replace("\x1b[K", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
        frames = [frame.split("\r\n") for frame in re.split(r"\x1b\[(?=\d+A)", text)]
        return [
            lines[0]
            for lines in frames
            if "round 3 of" in lines[0] + lines[1]
            and any("trunk" in line for line in lines)
            and all(len(line) <= 30 for line in lines[1:])
        ]

    terminal.wait_for(lambda lines: bool(narrow()))
    # what had 65 and 55 columns takes three lines and two in a terminal that wraps again
    assert int(narrow()[0].partition("A")[0]) > 6


def test_a_terminal_that_is_stopped_or_gone_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-S, or when its window was closed."""
    for gone in (False, True):
        master, slave = pty.openpty()  # which nobody reads
        attach(slave, monkeypatch)
        monkeypatch.setattr(live, "_LOOK", 0.0001)
        shown, rounds = Live(Progress(STOP, TRUNK, time.monotonic())), 0
        if gone:
            os.close(master)
        for history in play(fresh(), 500):
            shown.round(history)
            shown.warn("a warning" * 100)
            rounds += 1
        shown.close()
        assert rounds == 500
        if gone:
            shown._thread.join(LIMIT)
        assert shown._thread.is_alive() != gone
        if not gone:
            os.close(master)
            shown._thread.join(LIMIT)
            assert not shown._thread.is_alive()
        os.close(slave)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialised ring."""
    folder = tmp_path_factory.mktemp("live")
    fails = {"worker": ["--do", "exit", "--at", "10", "--once", str(folder / "once")], "tries": 2}
    write_ring(folder, 20, b=fails)
    start.init(str(folder))
    return folder


def run(
    terminal: Terminal, *arguments: object, verb: str = "run", interrupt: str | None = None, **environment: str
) -> tuple[int, list[str]]:
    """Run `ring run`, or another verb, on a terminal; return its status and all that is displayed at the end."""
    path = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptsurgeon", "ring", verb, *map(str, arguments)],
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "", "PYTHONPATH": path, **environment},
    )
    try:
        if interrupt is not None:
            terminal.wait_for(lambda lines: any(line.startswith(interrupt) for line in lines))
            process.send_signal(signal.SIGINT)
        status = process.wait(LIMIT)
    finally:
        process.kill()
        process.wait()
        terminal.close()
    return status, terminal.lines


def test_a_run_on_a_terminal_is_a_view_and_how_it_ended(ring: Path) -> None:
    """With a warning above, in colour; goes on below when it is run again; an interrupt leaves the view."""
    terminal = Terminal()
    status, lines = run(terminal, ring)
    assert status == 0
    assert lines[0].startswith("ckptsurgeon: warning: ")
    assert "modelb,step10:itstrainerexitedwithstatus1" in "".join("".join(lines).split())  # wherever it wraps
    assert [line.split()[0] for line in lines[-6:]] == ["model", "a", "b", "c", "trunk", "limit"]
    view = [line for line in lines if line.startswith("round 20 of 20   ")]
    assert len(view) == 1
    assert sum(line.startswith("model") for line in lines) == 1
    assert b"\x1b[1mmodel" in terminal.raw

    terminal = Terminal(columns=30, rows=8)
    status, lines = run(terminal, ring, "--until", "rounds=100000", interrupt="model", NO_COLOR="1")
    assert status == 130
    assert lines[-1] == "interrupted" or lines[-1].endswith("interrupted")
    assert sum(line.startswith("model") for line in lines) == 1
    assert b"\x1b[1m" not in terminal.raw


def test_status_on_a_terminal_says_why(ring: Path) -> None:
    """Below a table: how much the trunk still changes, and why the run ended."""
    ended = run(Terminal(), ring, "--until", "rounds=4", "-q")
    status, lines = run(Terminal(), ring, verb="status")
    assert (ended[0], status) == (0, 0)
    assert lines[0].split() == ["round", "state", "name", "step", "checkpoint", "loss", "change", "pid"]
    assert [line.split()[1:3] for line in lines[1:4]] == [["limit", name] for name in NAMES]
    assert lines[4].startswith("change of the trunk: 0.")
    assert lines[5].startswith("limit of ")


def test_a_terminal_that_cannot_draw_gets_lines(ring: Path) -> None:
    """Or where the view is not wanted: TERM=dumb, --json and -q."""
    for options, environment in (((), {"TERM": "dumb"}), (("--json",), {}), (("-q",), {})):
        terminal = Terminal()
        status, lines = run(terminal, ring, "--until", "rounds=1", *options, **environment)
        assert status == 0
        assert b"\x1b" not in terminal.raw
        assert b"model" not in terminal.raw
        assert bool(lines) == (options != ("-q",))


def test_what_is_wrong_is_told_without_a_view(tmp_path: Path) -> None:
    """In one line."""
    status, lines = run(Terminal(columns=len(str(tmp_path)) + 200), tmp_path)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith(f"ckptsurgeon: {tmp_path}: there is no ring.toml here")
