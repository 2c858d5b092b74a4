"""Messages between a process and its child that runs libhdf5: a letter, a length, and that many bytes.

A request is J (JSON), optionally followed by D (data) and a final F (end of data). An answer is any number of D,
followed by J or E (an error, as JSON).
"""

from __future__ import annotations

import codecs
import json
import os
import signal
import struct

from ....publish import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ....errors import CkptSurgeonError

HEAD = struct.Struct("<cQ")
_MEMORY = 1 << 30  # bytes of address space in addition to what the process has before it opens the file


class FileRange:
    """A range of an open file that is an HDF5 file.

    Attributes:
        file: path of the file, or its key in the checkpoint.
        fd: its descriptor.
        base: offset of the first byte.
        size: bytes.
    """

    __slots__ = ("base", "fd", "file", "size")

    def __init__(self, file: str, fd: int, base: int, size: int) -> None:
        self.file = file
        self.fd = fd
        self.base = base
        self.size = size


def send(fd: int, kind: bytes, data: bytes) -> None:
    """Send one message."""
    write_all(fd, HEAD.pack(kind, len(data)) + data if len(data) < 1 << 16 else HEAD.pack(kind, len(data)))
    if len(data) >= 1 << 16:
        write_all(fd, data)


class ParentPipe:
    """The child's connection to its parent."""

    def __init__(self, asked: int, answered: int) -> None:
        self._asked = asked
        self._answered = answered

    def request(self) -> dict[str, Any] | None:
        """Return the next request; None if the parent has ended."""
        head = self._read(HEAD.size)
        if head is None:
            return None
        found: dict[str, Any] = json.loads(self._read(HEAD.unpack(head)[1]) or b"{}")
        return found

    def data(self) -> Iterator[bytes]:
        """Yield the data sent after a request."""
        while head := self._read(HEAD.size):
            kind, length = HEAD.unpack(head)
            if kind == b"F":
                return
            yield self._read(length) or b""

    def send(self, data: bytes) -> None:
        """Send data."""
        send(self._answered, b"D", data)

    def done(self, answer: dict[str, Any]) -> None:
        """Send the end of an answer."""
        send(self._answered, b"J", json.dumps(answer).encode())

    def failed(self, error: CkptSurgeonError) -> None:
        """Send an error."""
        fields = {"kind": type(error).__name__, "what": error.what, "hint": error.hint}
        fields |= {key: str(value) for key in ("expected", "found") if (value := getattr(error, key)) is not None}
        send(self._answered, b"E", json.dumps(fields).encode())

    def _read(self, length: int) -> bytes | None:
        found = bytearray()
        while len(found) < length:
            chunk = os.read(self._asked, min(length - len(found), 1 << 20))
            if not chunk:
                return None
            found += chunk
        return bytes(found)


def limit() -> None:
    """Limit memory and forbid opening files; all modules must be loaded already."""
    import resource

    for codec in ("ascii", "utf-8"):  # their modules cannot be loaded later
        codecs.lookup(codec)
    try:
        with open("/proc/self/statm", "rb") as file:
            _lower(resource.RLIMIT_AS, int(file.read().split()[0]) * resource.getpagesize() + _MEMORY)
    except OSError:
        pass  # not Linux, which has other limits
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, 3)  # nothing else can be opened from here on


def _lower(what: int, limit: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(what, (limit, hard))


def grant_seconds(seconds: float) -> None:
    """Let this process use so much more processor time, in addition to what is left; SIGPROF ends it after that."""
    left = signal.getitimer(signal.ITIMER_PROF)[0]
    signal.setitimer(signal.ITIMER_PROF, left + seconds)
