"""Runs libhdf5 in forked children, under limits: it can crash on a damaged file, or never finish.

No other process ever calls libhdf5. A child gets the descriptors of its files and can open no others, so a file cannot
make it read anything else. A child that dies is reported as one DamagedError. `spawning` starts children, `pipe` is the
protocol between the two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal

from ....errors import ChangedError, DamagedError, RefusedError, StorageError, UnsupportedError, files
from . import spawning
from .pipe import HEAD, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NoReturn

    from ....errors import CkptSurgeonError
    from .pipe import FileRange

_MOST_JSON = 16 << 20  # bytes of an answer, plus four for each byte of the file
# Processor time: so much for a process and for each request, plus the time for the bytes to process, as a slow machine
# needs it. A small file takes some milliseconds; a loop in a damaged one must end soon.
_SECONDS = 1.0
_SECONDS_EACH = 0.02
_SLOWEST = 2 << 20  # bytes per second
_MOST_SECONDS = 600.0
_PATIENCE = 60  # seconds to wait for output, plus four for each second of processor time
_KINDS: dict[str, type[CkptSurgeonError]] = {
    each.__name__: each for each in (DamagedError, UnsupportedError, RefusedError, StorageError, ChangedError)
}


class Hdf5Process:
    """A forked process that reads HDF5 files, and may write one.

    Args:
        path: the path for error messages.
        parts: the files to read.
        target: an empty file for the new HDF5 file, open for reading and writing; or None.

    Raises:
        UnsupportedError: h5py is missing, or this system cannot fork.
        StorageError: the operating system refused.

    Attributes:
        ran_out_of_time: whether libhdf5 was ended because it took too long.
    """

    def __init__(self, path: str, parts: list[FileRange], target: int | None = None) -> None:
        self.path = path
        self._size = sum(part.size for part in parts)
        self._seconds = 0.0  # granted so far
        self.ran_out_of_time = False
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        self._spawner: spawning.Spawner | None = None
        try:
            with files(path):
                self._spawner = spawning.spawner()
                try:
                    self.pid = self._spawner.start(parts, target, asked, answered)
                except StorageError:
                    if self._spawner.lives:
                        raise
                    self._spawner = spawning.spawner()  # the spawner had been killed
                    self.pid = self._spawner.start(parts, target, asked, answered)
        except BaseException:
            os.close(self._to)
            os.close(self._from)
            raise
        finally:
            os.close(asked)
            os.close(answered)

    def ask(
        self, request: dict[str, Any], room: int, data: Iterable[bytes] | None = None
    ) -> Iterator[bytes | dict[str, Any]]:
        """Send a request and yield the answer: data as bytes, then one dict.

        Args:
            request: the request, a JSON object.
            room: bytes to process, for the time limit.
            data: sent after the request.

        Raises:
            DamagedError: the file is damaged, or libhdf5 crashed.
            CkptSurgeonError: raised by the child.
        """
        seconds = (0.0 if self._seconds else _SECONDS) + min(_MOST_SECONDS, _SECONDS_EACH + room / _SLOWEST)
        self._seconds += seconds
        with files(self.path), contextlib.suppress(BrokenPipeError):  # the child died, or its answer gives the reason
            send(self._to, b"J", json.dumps({**request, "seconds": seconds}).encode())
            if data is not None:
                for chunk in data:
                    send(self._to, b"D", chunk)
                send(self._to, b"F", b"")
        while True:
            kind, length = HEAD.unpack(self._receive(HEAD.size))
            if kind not in (b"J", b"D", b"E") or length > _MOST_JSON + 4 * self._size:
                self._die("the HDF5 reader process sent an invalid reply")
            answer = self._receive(length)
            if kind == b"D":
                yield answer
                continue
            try:
                reply = json.loads(answer)
            except ValueError:
                self._die("the HDF5 reader process sent an invalid reply")
            if kind == b"E":
                raise _error(reply, self.path)
            yield reply
            return

    def answer(self, request: dict[str, Any], room: int, data: Iterable[bytes] | None = None) -> dict[str, Any]:
        """As `ask`, for an answer without data."""
        for reply in self.ask(request, room, data):
            if isinstance(reply, dict):
                return reply
        self._die("the HDF5 reader process sent an invalid reply")

    def _receive(self, length: int) -> bytes:
        import select

        found = bytearray()
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        while len(found) < length:
            if not poll.poll((_PATIENCE + 4 * self._seconds) * 1000):
                self.ran_out_of_time = True
                self._die("libhdf5 did not finish reading this file")
            chunk = os.read(self._from, min(length - len(found), 1 << 20))
            if not chunk:
                self._die(None)
            found += chunk
        return bytes(found)

    def _die(self, what: str | None) -> NoReturn:
        """Kill the process if necessary and raise DamagedError.

        Args:
            what: the cause; None if the process ended by itself, so that its exit status gives the cause.
        """
        status = self.close(kill=what is not None)
        if what is None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            what = "libhdf5 crashed while reading this file"
            if number == signal.SIGPROF:
                self.ran_out_of_time = True
                what = "libhdf5 did not finish reading this file"
            elif number in set(signal.Signals):
                what += f" ({signal.Signals(number).name})"
        raise DamagedError(f"damaged: {what}", path=self.path)

    def close(self, kill: bool = True) -> int:
        """End the child and return its exit status."""
        if not self.pid or self._spawner is None:
            return 0
        pid, self.pid = self.pid, 0
        for fd in (self._to, self._from):
            with contextlib.suppress(OSError):  # everything was read; what fails now changes nothing
                os.close(fd)
        return self._spawner.end(pid, kill)


def _error(reply: dict[str, Any], path: str) -> CkptSurgeonError:
    kind = _KINDS.get(str(reply.get("kind")), DamagedError)
    found = {key: reply[key] for key in ("expected", "found", "hint") if reply.get(key) is not None}
    return kind(str(reply.get("what")), path=path, **found)
