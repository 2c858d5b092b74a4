"""The event files of a run: what TensorBoard reads in them, and what happens when they cannot be written."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ring_rounds import NAMES, WINDOW, fresh, loss, measured, play
from waiting import LIMIT, wait_until

from ckptsurgeon.formats.tensorflow import wire
from ckptsurgeon.ring.reporting import events
from ckptsurgeon.ring.reporting.events import EventFile, Events


def records(path: Path) -> list[dict[int, Any]]:
    """Return the fields of each event of a file, its framing and checksums checked."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        head, body, end = data[at : at + 8], data[at + 12 : at + 12 + length], at + 16 + length
        assert end <= len(data)
        assert struct.unpack_from("<I", data, at + 8)[0] == wire.mask(wire.crc32c(head))
        assert struct.unpack_from("<I", data, end - 4)[0] == wire.mask(wire.crc32c(body))
        found.append({number: value for number, _, value, _ in wire.fields(body)})
        at = end
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def rounds_in(path: Path) -> list[int]:
    """Return the steps of the summaries of a file."""
    return [event[2] for event in records(path) if 5 in event]


def test_a_round_gives_each_model_its_values() -> None:
    """Only what was measured: a model without held-out loss has none, and a round in a window has but losses."""
    history = fresh()
    [*_] = play(history, 1)
    assert events.scalars(history) == {**{name: {"loss": loss(name, 1)} for name in NAMES}, "trunk": {}}
    [*_] = play(history, 1)
    found = events.scalars(history)
    assert found["a"] == {"loss": 0.5, "held_out_loss": 1 / 2, "change": 1 / 2, "distance": 1 / 2}
    assert found["c"] == {"loss": 2.5, "change": 1 / 4, "distance": 1 / 4}
    assert found["trunk"] == {"change": 0.25}
    assert events.scalars(fresh())["a"] == {}


def test_a_model_is_a_run_of_its_own(tmp_path: Path) -> None:
    """One file in the folder of each, which begins with its version and the mark of a new session."""
    before = time.time()
    writer = Events(str(tmp_path / "events"), fresh())
    for history in play(fresh(), 3):
        writer.round(history, 0.5)
    writer.close()
    assert sorted(path.name for path in (tmp_path / "events").iterdir() if path.is_dir()) == [*NAMES, "trunk"]
    for name, expected in (("a", [1, 2, 3]), ("trunk", [2]), ("", [1, 2, 3])):
        [path] = files(tmp_path / "events" / name)
        version, start, *_ = records(path)
        assert version[3] == b"brain.Event:2"
        assert (start[2], start[7]) == (1, b"\x08\x01")
        assert rounds_in(path) == expected
        assert int(before) <= struct.unpack("<d", version[1].to_bytes(8, "little"))[0] <= time.time()


def test_disk_is_written_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round at once, what follows within the second together, the rest at the end."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    writer = Events(str(tmp_path), fresh())
    seen = []
    for history in play(fresh(), 6):
        writer.round(history, 0.5)
        seen.append(len(rounds_in(*files(tmp_path / "a"))))
        now[0] += 0.4
    assert seen == [1, 1, 1, 4, 4, 4]
    writer.close()
    assert rounds_in(*files(tmp_path / "a")) == [1, 2, 3, 4, 5, 6]


def test_a_new_driver_begins_new_files_that_come_later(tmp_path: Path) -> None:
    """By name, even if both start in one second or the clock goes backwards; one that does nothing leaves none."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "events.out.tfevents.4000000000.other").write_bytes(b"")
    for _ in range(3):
        writer = Events(str(tmp_path), fresh())
        for history in play(fresh(), 1):
            writer.round(history, 0.5)
        writer.close()
    Events(str(tmp_path), fresh()).close()
    assert [path.name for path in files(tmp_path / "a")] == [
        "events.out.tfevents.4000000000.other",
        *(f"events.out.tfevents.{4_000_000_000 + number}.ckptsurgeon" for number in (1, 2, 3)),
    ]
    assert len(files(tmp_path)) == 3


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """A run goes on, with events from there on; also where a file was cut by somebody else."""
    file = EventFile(str(tmp_path / "a"), 1)
    file.add(1, 100.0, {"loss": 1.0})
    file.flush()
    shutil.rmtree(tmp_path / "a")
    file.add(2, 101.0, {"loss": 1.0})
    file.flush()
    [path] = files(tmp_path / "a")
    assert rounds_in(path) == [2]
    os.truncate(path, 20)
    file.add(3, 102.0, {"loss": 1.0})
    file.flush()
    assert rounds_in(files(tmp_path / "a")[-1]) == [3]


def failing(after: int) -> Callable[[int, bytes], None]:
    """Return a `write_all` for a disk with room for so many bytes of each write."""

    def write(fd: int, data: bytes) -> None:
        os.write(fd, data[:after])
        raise OSError(errno.ENOSPC, "No space left on device")

    return write


@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_full_disk_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """What cannot be written is lost, what is there stays whole, and events go on once there is room."""
    told: list[str] = []
    writer, history = Events(str(tmp_path), fresh(), told.append), fresh()
    monkeypatch.setattr(events, "_EVERY", 0.0)
    room = events.write_all
    for full in (True, False, True, False):
        monkeypatch.setattr(events, "write_all", failing(after) if full else room)
        for past in play(history, 2):
            writer.round(past, 0.5)
    writer.close()
    assert told == [f"{tmp_path}: no space left on device; the run continues without these TensorBoard events"]
    [path] = files(tmp_path / "a")
    assert rounds_in(path) == [3, 4, 7, 8]


def test_a_write_that_was_interrupted_leaves_no_torn_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C, at the head of a file or later: what follows is whole again."""

    def interrupted(fd: int, data: bytes) -> None:
        os.write(fd, data[:25])
        raise KeyboardInterrupt

    room = events.write_all
    file = EventFile(str(tmp_path), 0)
    for step in range(1, 5):
        monkeypatch.setattr(events, "write_all", interrupted if step % 2 else room)
        file.add(step, 100.0 + step, {"loss": 1.0})
        if step % 2:
            with pytest.raises(KeyboardInterrupt):
                file.flush()
        else:
            file.flush()
    assert rounds_in(files(tmp_path)[-1]) == [2, 4]


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    """Once, and nothing is raised."""
    (tmp_path / "events").write_text("mine")
    told: list[str] = []
    writer = Events(str(tmp_path / "events"), fresh(), told.append)
    for history in play(fresh(), 2):
        writer.round(history, 0.5)
        writer.flush()
    assert len(told) == 1
    assert (tmp_path / "events").read_text() == "mine"


def accumulated(folder: Path) -> Any:
    """Return what TensorBoard's own reader finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


@pytest.mark.tensorflow
def test_tensorboards_reader_reads_every_value_back(tmp_path: Path) -> None:
    """All tags, steps and values of many rounds."""
    writer = Events(str(tmp_path), fresh())
    for history in play(fresh(), 300):
        writer.round(history, 0.5)
    writer.close()
    for name in NAMES:
        found = accumulated(tmp_path / name)
        tags = ["loss", "change", "distance"] + ["held_out_loss"] * (name != "c")
        assert sorted(found.Tags()["scalars"]) == sorted(tags)
        values = [(point.step, point.value) for point in found.Scalars("loss")]
        assert values == [(n, pytest.approx(loss(name, n), rel=1e-6)) for n in range(1, 301)]
        values = [(point.step, point.value) for point in found.Scalars("distance")]
        expected = [(n, measured(n).distance) for n in range(WINDOW, 301, WINDOW)]
        assert values == [(n, pytest.approx((each or {})[name], rel=1e-6)) for n, each in expected]
    assert len(accumulated(tmp_path / "trunk").Scalars("change")) == 150
    speeds = [point.value for point in accumulated(tmp_path).Scalars("steps_per_second")]
    assert speeds == [14.0] * 300


@pytest.mark.tensorflow
def test_tensorboards_reader_reads_odd_values(tmp_path: Path) -> None:
    """Zero, NaN, infinities, and numbers beyond float32, which become infinite."""
    odd = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 3.4e38, 5e-324]
    file = EventFile(str(tmp_path), 0)
    for step, value in enumerate(odd):
        file.add(step, 100.0, {"größe": value})
    file.flush()
    found = [point.value for point in accumulated(tmp_path).Scalars("größe")]
    expected = [0.0, 0.0, math.nan, math.inf, -math.inf, math.inf, -math.inf, 0.0, odd[8], 0.0]
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.tensorflow
def test_rounds_that_were_done_again_are_shown_once(tmp_path: Path) -> None:
    """A driver that goes back to an older round supersedes what the one before it wrote, torn or not."""
    for start, rounds in ((0, 9), (4, 3), (7, 2)):
        history = fresh()
        [*_] = play(history, start)
        writer = Events(str(tmp_path), history)
        for past in play(history, rounds):
            writer.round(past, 1.0 + start)
        writer.close()
        with files(tmp_path)[-1].open("ab") as file:
            file.write(b"\x20\0\0\0torn")
    points = [(point.step, round(7 / point.value, 3)) for point in accumulated(tmp_path).Scalars("steps_per_second")]
    assert points == [(n, 1.0) for n in (1, 2, 3, 4)] + [(n, 5.0) for n in (5, 6, 7)] + [(n, 8.0) for n in (8, 9)]


@pytest.mark.tensorflow
def test_a_new_run_in_the_same_folder_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    """Not even in the curve of the trunk, whose first point comes after some of the old ones."""
    writer = Events(str(tmp_path), fresh())
    for past in play(fresh(), 9):
        writer.round(past, 1.0)
    writer.close()
    writer, history = Events(str(tmp_path), fresh()), fresh()
    for past in play(history, 7):
        if past.round > 2:
            writer.round(past, 1.0)
    writer.close()
    assert [point.step for point in accumulated(tmp_path / "trunk").Scalars("change")] == [4, 6]
    assert [point.step for point in accumulated(tmp_path / "a").Scalars("loss")] == [3, 4, 5, 6, 7]


@pytest.mark.tensorflow
def test_tensorboard_serves_the_curves(tmp_path: Path) -> None:
    """A real process, asked over HTTP, shows every model with the same tags, and repeated rounds once."""
    for start in (0, 2):
        history = fresh()
        [*_] = play(history, start)
        writer = Events(str(tmp_path), history)
        for past in play(history, 4):
            writer.round(past, 1.0 + start)
        writer.close()
    arguments = ["--logdir", str(tmp_path), "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    watchdog = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        assert process.stderr is not None
        addresses = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stderr)
        address = next(match[0] for match in addresses if match) + "data/plugin/scalars/"

        def ask(what: str) -> Any:
            with urllib.request.urlopen(address + what, timeout=LIMIT) as answer:
                return json.load(answer)

        wait_until(lambda: len(ask("tags")) == 5, every=0.2)
        assert {run: sorted(tags) for run, tags in ask("tags").items()} == {
            ".": ["steps_per_second"],
            "a": ["change", "distance", "held_out_loss", "loss"],
            "b": ["change", "distance", "held_out_loss", "loss"],
            "c": ["change", "distance", "loss"],
            "trunk": ["change"],
        }
        points = ask("scalars?run=.&tag=steps_per_second")
        assert [(step, round(7 / value)) for _, step, value in points] == [
            (1, 1),
            (2, 1),
            (3, 3),
            (4, 3),
            (5, 3),
            (6, 3),
        ]
        points = ask("scalars?run=b&tag=loss")
        assert [step for _, step, _ in points] == [1, 2, 3, 4, 5, 6]
    finally:
        watchdog.cancel()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
