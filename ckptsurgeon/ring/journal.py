"""The journal of a run: an append-only log of finished steps, from which everything else follows.

journal.jsonl has a head line, `{"v": 1, "spec": …, "data_sha256": …, "env": …, "initial": …}`, and a line for
each finished step. A line whose step is not beyond the last one takes history back to before that step, so that a
fallback is recorded without rewriting anything. The next writer cuts off a last line that a crash left incomplete.

The file is also the lock of the run. The lock (flock) belongs to the open file, which the trainers inherit: a
run stays locked as long as a trainer of a dead driver lives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from ..errors import BusyError, CkptSurgeonError, DamagedError, RefusedError, UnsupportedError, files
from ..publish import drive, end_drive, fsync, write_all
from . import json_text
from .history import History
from .lines import Edit, Record, Settings, Variables
from .replaying import check_document, replay, suffixes, take_variables
from .schedule import TRUNK, Schedule

try:
    import fcntl
except ImportError:  # Windows, where runs can be read but not driven
    fcntl = None  # type: ignore[assignment]

# What a line raises that holds other JSON than a line of a journal.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError)

# A driver that was killed takes its trainers with it, but they need a moment to die.
_WAIT_FOR_TRAINERS = 6.0
# Operations such as `graft` share the lock while they change a checkpoint of the run.
_WAIT_FOR_OPERATION = 30.0
# `ring status` holds the lock for microseconds while it asks whether anybody else does.
_WAIT_FOR_STATUS = 0.5
_AFRESH = "restore the file, or start over with: ckptsurgeon ring init --force"
LONGEST_LINE = 1 << 26  # bytes; the head, and changes of ring.toml, list the variables of models


@dataclass(frozen=True)
class Head:
    """The first line: what the run consists of.

    Attributes:
        spec: ring.toml with its defaults filled in.
        data_sha256: the digest of the rows.
        env: the environment that the bytes of checkpoints may depend on (see `environment`).
        initial: the fingerprint of each model's first checkpoint.
        variables: the dtype and the shape of each variable of each model, which never change; empty in a run that
            was begun by an earlier version.
    """

    spec: Mapping[str, Any]
    data_sha256: str | None
    env: Mapping[str, Any]
    initial: Mapping[str, str]
    variables: Mapping[str, Variables] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return the head as a line of the journal."""
        values = {"v": 1, "spec": self.spec, "data_sha256": self.data_sha256, "env": self.env}
        values |= {"initial": self.initial, "variables": self.variables}
        return json_text.render(values).encode() + b"\n"


@dataclass(frozen=True)
class Content:
    """A parsed journal, and how many of its bytes were parsed; the rest is a torn tail."""

    head: Head
    history: History
    length: int

    @property
    def suffixes(self) -> dict[str, str]:
        """The end of the names of each model's checkpoints, and of the trunk's."""
        return {**suffixes(self.history.document), TRUNK: ""}


def parse(file: IO[bytes]) -> Content | None:
    """Read a journal line by line; None if there is no whole head, as before or in the middle of `ring init`.

    Args:
        file: the journal from its beginning; read to its end.

    Raises:
        DamagedError: a line is damaged that is followed by the end of a round. Rounds are synced to disk
            whole, so that no crash explains it.
    """
    first = file.readline(LONGEST_LINE)
    lines = iter(lambda: file.readline(LONGEST_LINE), b"")
    if not first.endswith(b"\n") and len(first) < LONGEST_LINE:
        return None
    try:
        values = json_text.parse(first, own=True)
        version = values["v"]
        variables = take_variables(values.get("variables", {}))
        head = Head(values["spec"], values["data_sha256"], dict(values["env"]), dict(values["initial"]), variables)
        schedule = check_document(head.spec)
        if not all(isinstance(head.initial[name], str) for name in schedule.models):
            raise ValueError
        history = History(schedule, head.initial, head.spec, head.variables)
    except UNREADABLE as error:
        raise DamagedError("line 1 is not the head of a journal", hint=_AFRESH) from error
    if version != 1:
        raise DamagedError("was written by another version", expected="v 1", found=f"v {version}")
    length = len(first)
    for number, line in enumerate(lines, start=2):
        try:
            if not line.endswith(b"\n"):  # even if it parses
                raise ValueError
            replay(line, history)
        except UNREADABLE:
            if any(_ends_round(later, history.schedule) for later in lines):
                raise DamagedError(f"line {number} is damaged, and whole rounds follow it", hint=_AFRESH) from None
            break
        length += len(line)
    return Content(head, history, length)


class Journal:
    """The journal of a run, open and locked for the one driver that may write it.

    Attributes:
        fd: the descriptor that holds the lock; trainers inherit it.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def lock(cls, path: str, driver: Callable[[], int | None], create: bool = False) -> Journal:
        """Open the journal and take its lock.

        Args:
            path: journal.jsonl.
            driver: returns the process that, according to status.json, is driving the run.
            create: make the file if there is none.

        Raises:
            BusyError: another driver runs, or trainers of a dead one still do.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        with files(path):
            fd = os.open(path, flags, 0o666)
        start = time.monotonic()
        while not _try_lock(fd):
            pid = driver()
            alive = pid is not None and is_alive(pid)
            waited, shared = time.monotonic() - start, _is_shared(path)
            if waited > (_WAIT_FOR_OPERATION if shared else _WAIT_FOR_STATUS if alive else _WAIT_FOR_TRAINERS):
                os.close(fd)
                if shared:
                    raise BusyError("an operation on a checkpoint of this run is going on", path=path, hint="try again")
                if alive:
                    raise BusyError(f"process {pid} is driving this run", path=path)
                what = "the driver of this run is dead, but a trainer that it started still runs"
                raise BusyError(what, path=path, hint="end that trainer, then try again")
            time.sleep(0.02)
        drive(path)
        return cls(path, fd)

    def read(self) -> Content | None:
        """Read the journal and cut off a torn tail."""
        with files(self.path):
            with open(self.path, "rb") as file:
                content = parse(file)
            if content is not None and content.length < os.fstat(self.fd).st_size:
                os.ftruncate(self.fd, content.length)
        return content

    def clear(self) -> None:
        """Forget the run: until `start` there is none."""
        with files(self.path):
            os.ftruncate(self.fd, 0)

    def start(self, head: Head) -> None:
        """Write the head of an empty journal; once this returns, the run exists."""
        with files(self.path):
            self._write(head.line())
            os.fsync(self.fd)
            fsync(os.path.dirname(self.path))

    def append(self, record: Record | Edit | Settings, sync: bool) -> None:
        """Add a line; with `sync` it and all before it are on disk when this returns."""
        with files(self.path):
            self._write(record.line())
            if sync:
                os.fsync(self.fd)

    def _write(self, line: bytes) -> None:
        if len(line) > LONGEST_LINE:  # nobody could read it
            what = "models have more variables than a journal can list, or longer names"
            raise RefusedError(what, path=self.path, expected=f"{LONGEST_LINE} bytes", found=len(line))
        write_all(self.fd, line)

    def close(self) -> None:
        """Release the lock, which is free once the last trainer has ended too."""
        end_drive(self.path)
        os.close(self.fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def load(path: str) -> Content:
    """Read the journal of a run that may be running; nothing is changed."""
    with files(path):
        if not os.path.exists(path):
            raise not_initialised(os.path.dirname(path))
        with open(path, "rb") as file:
            content = parse(file)
        if content is None:
            raise not_initialised(os.path.dirname(path))
        return content


def not_initialised(root: str) -> CkptSurgeonError:
    """Return the error for a folder whose journal has no head yet."""
    return CkptSurgeonError("the run is not initialised", path=root, hint=f"run: ckptsurgeon ring init {root}")


def is_locked(path: str) -> bool:
    """Return whether a driver, or a trainer that outlived one, holds the lock."""
    with files(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return not _try_lock(fd)
        finally:
            os.close(fd)


def _is_shared(path: str) -> bool:
    """Return whether the lock is held, if at all, by operations on checkpoints, which share it."""
    with files(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _try_lock(fd, exclusive=False)
        finally:
            os.close(fd)


def is_alive(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists and belongs to another user
        return True
    return True


def _try_lock(fd: int, exclusive: bool = True) -> bool:
    if fcntl is None:
        raise UnsupportedError("rings cannot run on this system")
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ends_round(line: bytes, schedule: Schedule) -> bool:
    """Return whether a line looks like the record of a round's last step."""
    try:
        return schedule.step(int(json_text.parse(line, own=True)["step"])).last
    except UNREADABLE:
        return False
