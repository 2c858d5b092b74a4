"""Writes the curves of a run to event files for TensorBoard, without TensorFlow.

    events/<model>/events.out.tfevents.<seconds>.ckptsurgeon   loss, held_out_loss, change, distance
    events/trunk/…                                             change
    events/…                                                   steps_per_second

Each model is a separate TensorBoard run with the same tags, so that TensorBoard overlays their curves; a point's step
is its round. A driver starts new files with a marker that makes TensorBoard discard the later events of older files, so
a round that was lost and repeated is shown once. The format, in `tensorflow/core/lib/io/record_writer.cc` and
`tensorflow/core/util/event.proto`: a record is a length, the masked CRC-32C of the length, an Event, and its CRC.

No failure here stops a run. Points that cannot be written are lost, with a single warning.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from collections.abc import Callable, Mapping

from ...formats.tensorflow import wire
from ...publish import write_all
from ..history import History
from ..lines import Measured
from ..schedule import TRUNK

_EVERY = 1.0  # seconds between two writes to disk
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.")

# Fields of the messages: Event, SessionLog, Summary, Summary.Value.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_STATUS, _START = 1, 1
_VALUE = 1
_TAG, _SIMPLE_VALUE = 1, 2

_WALL_TIME_KEY = wire.varint(_WALL_TIME << 3 | wire.FIXED64)
_SIMPLE_VALUE_KEY = wire.varint(_SIMPLE_VALUE << 3 | wire.FIXED32)
_LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def scalars(history: History) -> dict[str, dict[str, float]]:
    """Return the values of the last round, by name (of a model or the trunk) and tag; only those measured."""
    measured = history.last.measured if history.last else Measured()
    change, held_out, distance = measured.change or {}, measured.held_out or {}, measured.distance or {}
    found: dict[str, dict[str, float | None]] = {
        name: {
            "loss": history.loss(name),
            "held_out_loss": held_out.get(name),
            "change": change.get(name),
            "distance": distance.get(name),
        }
        for name in history.models
    }
    found[TRUNK] = {"change": change.get(TRUNK)}
    return {name: {tag: value for tag, value in values.items() if value is not None} for name, values in found.items()}


class Events:
    """The event files of one driver.

    Args:
        folder: the folder for the files; created at the first write.
        history: the run's history when the driver began.
        warn: called at most once, with a line for the user, if events cannot be written.
    """

    def __init__(self, folder: str, history: History, warn: Callable[[str], None] = lambda line: None) -> None:
        self._folder = folder
        self._step = history.step
        self._first = history.round + 1
        self._warn: Callable[[str], None] | None = warn
        self._files: dict[str, EventFile] = {}
        self._written = -_EVERY

    def round(self, history: History, seconds: float) -> None:
        """Record the round that has just ended.

        Args:
            history: the history after the round.
            seconds: duration of the round, or the time since the driver began.
        """
        now = time.time()
        curves = scalars(history)
        if seconds > 0:
            curves[""] = {"steps_per_second": (history.step - self._step) / seconds}
        self._step = history.step
        for name, values in curves.items():
            if values:
                if name not in self._files:
                    self._files[name] = EventFile(os.path.join(self._folder, name), self._first)
                self._files[name].add(history.round, now, values)
        if time.monotonic() - self._written >= _EVERY:
            self.flush()

    def flush(self) -> None:
        """Write all pending events."""
        self._written = time.monotonic()
        for file in self._files.values():
            try:
                file.flush()
            except OSError as error:
                if self._warn is not None:
                    reason = (error.strerror or str(error)).lower()
                    self._warn(f"{self._folder}: {reason}; the run continues without these TensorBoard events")
                    self._warn = None

    def close(self) -> None:
        """Write the remaining events; no file stays open between writes."""
        self.flush()


class EventFile:
    """The events of one TensorBoard run, in a file that is created with the first of them.

    The file is reopened for each write: it may have been removed since, and a long run keeps no files open.

    Args:
        folder: the folder for the file.
        first: the step from which events in older drivers' files are discarded.
    """

    def __init__(self, folder: str, first: int) -> None:
        self._folder = folder
        self._first = first
        self._path: str | None = None
        self._size = 0
        self._began = 0.0  # the wall time of the first unwritten event
        self._pending: list[bytes] = []

    def add(self, step: int, wall_time: float, values: Mapping[str, float]) -> None:
        """Add the values of a step, by tag; `flush` writes them."""
        if not self._pending:
            self._began = wall_time
            if self._path is not None:  # if that file is gone, this driver's other events stay valid
                self._first = step
        summary = b"".join([wire.bytes_field(_VALUE, _value(tag, value)) for tag, value in values.items()])
        self._pending.append(_record(_event(wall_time, step, wire.bytes_field(_SUMMARY, summary))))

    def flush(self) -> None:
        """Append all pending events. They are discarded even if this fails, so memory is bounded.

        Raises:
            OSError: the events could not be written; the file ends with a whole record, or will after the next write.
        """
        if not self._pending:
            return
        data, self._pending = b"".join(self._pending), []
        if self._path is not None and self._size and self._append(self._path, data, 0):
            return
        os.makedirs(self._folder, exist_ok=True)
        self._path, self._size = _new_name(self._folder, self._began), 0
        self._append(self._path, _head(self._began, self._first) + data, os.O_CREAT)

    def _append(self, path: str, data: bytes, flags: int) -> bool:
        """Append whole records; return False if the file is missing or shorter than we left it."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o666)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(fd).st_size
            if size < self._size:
                return False
            if size > self._size:  # remains of a failed or interrupted write
                os.ftruncate(fd, self._size)
            try:
                write_all(fd, data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, self._size)
                    if not self._size:  # the next write creates another file
                        os.unlink(path)
                raise
            self._size += len(data)
            return True
        finally:
            os.close(fd)


def _new_name(folder: str, wall_time: float) -> str:
    """Return the path of a new file that sorts after all existing ones: TensorBoard reads files in order of names."""
    matches = [_NAME.match(name) for name in os.listdir(folder)]
    latest = max((int(match[1]) for match in matches if match), default=0)
    seconds = max(int(wall_time), latest + 1)
    return os.path.join(folder, f"events.out.tfevents.{seconds:010}.ckptsurgeon")


def _head(wall_time: float, step: int) -> bytes:
    """Return the first records of a file: its version, and the start of a session at `step`."""
    version = _event(wall_time, 0, wire.bytes_field(_FILE_VERSION, b"brain.Event:2"))
    start = wire.bytes_field(_SESSION_LOG, wire.varint_field(_STATUS, _START))
    return _record(version) + _record(_event(wall_time, step, start))


def _event(wall_time: float, step: int, what: bytes) -> bytes:
    return _WALL_TIME_KEY + struct.pack("<d", wall_time) + wire.varint_field(_STEP, step) + what


def _value(tag: str, value: float) -> bytes:
    """Encode a float32, the precision that TensorBoard shows; a field of a oneof is written even if it is 0."""
    if abs(value) > _LARGEST:  # false for NaN
        value = float("inf") if value > 0 else float("-inf")
    return wire.bytes_field(_TAG, tag.encode()) + _SIMPLE_VALUE_KEY + struct.pack("<f", value)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked(length), data, _masked(data)))


def _masked(data: bytes) -> bytes:
    return struct.pack("<I", wire.mask(wire.crc32c(data)))
