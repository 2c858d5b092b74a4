"""Runs libhdf5 in forked children, under limits: it can crash on a damaged file, or never come to an end.

No other process ever calls libhdf5. A child has the files that it is given and can open no other, so that nothing
outside them is read whatever they say. One that dies is one DamagedError. `hdf5_spawner` makes children, `hdf5_pipe` is
what is said.
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

_MOST_JSON = 16 << 20  # bytes of an answer, beside four for each byte of the file
_SECONDS = 4  # of processor time, beside those for the size of what is asked for
_SLOWEST = 2 << 20  # bytes a second that even the slowest machine gets through
_MOST_SECONDS = 600
_PATIENCE = 60  # seconds without a word, beside four for each second of processor time
_KINDS: dict[str, type[CkptSurgeonError]] = {
    each.__name__: each for each in (DamagedError, UnsupportedError, RefusedError, StorageError, ChangedError)
}


class Hdf5Process:
    """A forked process that reads HDF5 files, and may write one.

    Args:
        path: what errors name.
        parts: the files to read.
        target: an empty file, open for reading and writing, to make an HDF5 file of; or None.

    Raises:
        UnsupportedError: there is no h5py, or this system cannot fork.
        StorageError: the operating system refused.
    """

    def __init__(self, path: str, parts: list[FileRange], target: int | None = None) -> None:
        self.path = path
        self._size = sum(part.size for part in parts)
        self._seconds = 0
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
                    self._spawner = spawning.spawner()  # it was killed meanwhile
                    self.pid = self._spawner.start(parts, target, asked, answered)
        except BaseException:
            os.close(self._to)
            os.close(self._from)
            raise
        finally:
            os.close(asked)
            os.close(answered)

    def ask(
        self, request: dict[str, Any], data: Iterable[bytes] | None = None, room: int = 0
    ) -> Iterator[bytes | dict[str, Any]]:
        """What the child answers: data as bytes, and at the end a dict.

        Args:
            request: what it is to do.
            data: to be sent after it.
            room: bytes that it will have to get through, beside those of the files.

        Raises:
            DamagedError: the file is damaged, or the child died of it.
            CkptSurgeonError: what the child raised.
        """
        self._seconds = min(_MOST_SECONDS, _SECONDS + (self._size + room) // _SLOWEST)
        with files(self.path), contextlib.suppress(BrokenPipeError):  # it died, or it says what is wrong
            send(self._to, b"J", json.dumps({**request, "seconds": self._seconds}).encode())
            if data is not None:
                for chunk in data:
                    send(self._to, b"D", chunk)
                send(self._to, b"F", b"")
        while True:
            kind, length = HEAD.unpack(self._receive(HEAD.size))
            if kind not in (b"J", b"D", b"E") or length > _MOST_JSON + 4 * self._size:
                self._die("says what nobody understands")
            answer = self._receive(length)
            if kind == b"D":
                yield answer
                continue
            try:
                told = json.loads(answer)
            except ValueError:
                self._die("says what nobody understands")
            if kind == b"E":
                raise _error(told, self.path)
            yield told
            return

    def answer(self, request: dict[str, Any], data: Iterable[bytes] | None = None, room: int = 0) -> dict[str, Any]:
        """As `ask`, of an answer without data."""
        for told in self.ask(request, data, room):
            if isinstance(told, dict):
                return told
        self._die("says what nobody understands")

    def _receive(self, length: int) -> bytes:
        import select

        found = bytearray()
        poll = select.poll()
        poll.register(self._from, select.POLLIN)
        while len(found) < length:
            if not poll.poll((_PATIENCE + 4 * self._seconds) * 1000):
                self._die("does not come to an end with it")
            chunk = os.read(self._from, min(length - len(found), 1 << 20))
            if not chunk:
                self._die(None)
            found += chunk
        return bytes(found)

    def _die(self, what: str | None) -> NoReturn:
        """Raise that the child died, or that it must."""
        status = self.close(kill=what is not None)
        if what is None:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            what = f"dies of it ({signal.Signals(number).name})" if number in set(signal.Signals) else "dies of it"
            what = "does not come to an end with it" if number == signal.SIGXCPU else what
        raise DamagedError(f"damaged: the HDF5 library {what}", path=self.path)

    def close(self, kill: bool = True) -> int:
        """End the child; its status."""
        if not self.pid or self._spawner is None:
            return 0
        pid, self.pid = self.pid, 0
        os.close(self._to)
        os.close(self._from)
        return self._spawner.end(pid, kill)


def _error(told: dict[str, Any], path: str) -> CkptSurgeonError:
    kind = _KINDS.get(str(told.get("kind")), DamagedError)
    found = {key: told[key] for key in ("expected", "found", "hint") if told.get(key) is not None}
    return kind(str(told.get("what")), path=path, **found)
