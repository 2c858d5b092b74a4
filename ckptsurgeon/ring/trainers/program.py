"""A program in a child process: in its own session, read line by line up to a deadline, and stopped for certain."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...errors import TrainerError, files
from ...publish import BACKUP, RUN

# Longer lines are errors; the limit also bounds the memory that a runaway trainer can take.
_LONGEST_LINE = 1 << 20
_LOOK = 0.5  # seconds between two checks of a program that prints nothing
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class RunningProgram:
    """A running program whose standard output is read line by line.

    Args:
        arguments: the program and its arguments.
        folder: its working directory.
        log: the file that its standard error is appended to.
        inherited: descriptors that the program keeps open.
        talk: whether to send it lines on its standard input, which is empty otherwise.
        environment: variables to set in addition to our own.
        memory: megabytes that the program and its descendants may use; None for no limit.

    Raises:
        TrainerError: the program cannot be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: str,
        log: str,
        inherited: Iterable[int] = (),
        talk: bool = False,
        environment: Mapping[str, str] | None = None,
        memory: float | None = None,
    ) -> None:
        self._memory = memory
        self._weighed = 0.0
        with files(log):
            self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._process = subprocess.Popen(
                arguments,
                cwd=folder,
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,
                pass_fds=tuple(inherited),
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
                # A ring keeps what it needs of its checkpoints; what a trainer kept for `undo` would never go.
                env={**os.environ, BACKUP: "0", RUN: os.path.join(folder, "journal.jsonl"), **(environment or {})},
            )
        except (OSError, ValueError) as error:
            os.close(self._log)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise TrainerError(f"cannot start {arguments[0]}: {str(reason).lower()}") from error
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN | select.POLLHUP)
        self._buffer = b""

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def send(self, line: bytes) -> None:
        """Write a line to the program's standard input. If the program has ended, reading from it will show that."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)

    def log(self, line: bytes) -> None:
        """Append a line to its log."""
        os.write(self._log, line + b"\n")

    def line(self, deadline: float) -> bytes | None:
        """Return its next line of output, without the newline; None when there will be none.

        Args:
            deadline: when to give up, by `time.monotonic`.

        Raises:
            TimeoutError: the deadline has passed.
            TrainerError: the line is longer than 1 MiB, or the program uses too much memory.
        """
        while b"\n" not in self._buffer:
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise TimeoutError
            # a daemon that the program left behind may hold the output open, so check the program itself too
            ready = self._poll.poll(min(wait, _LOOK) * 1000)
            self._check_memory()
            if not ready:
                if self._process.poll() is None:
                    continue
                chunk = b""
            else:
                chunk = os.read(self._output, 1 << 16)
            if not chunk:
                rest, self._buffer = self._buffer, b""
                return rest or None
            self._buffer += chunk
            if len(self._buffer) > _LONGEST_LINE and b"\n" not in self._buffer:
                raise TrainerError("wrote a line of more than 1 MiB")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _check_memory(self) -> None:
        """Check the program's memory, and every half second its descendants' too. Without /proc there is no check."""
        if self._memory is None:
            return
        held, now = _resident(self._process.pid), time.monotonic()
        if now >= self._weighed + _LOOK:
            self._weighed = now
            held = sum(map(_resident, _session(self._process.pid)))
        if held > self._memory * 1e6:
            what = f"holds {held / 1e6:.0f} MB of memory"
            raise TrainerError(what, expected=f"{self._memory:g} MB or less, as ring.toml says")

    def wait(self, deadline: float) -> int:
        """Return its exit status, negative for a signal.

        Raises:
            TimeoutError: it has not ended by the deadline.
        """
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def end_input(self) -> None:
        """Close its standard input, at which a worker exits."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def terminate(self) -> None:
        """Send SIGTERM to the program and its descendants."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        """Send a signal to the program and those of its descendants that stayed in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: zombies, on macOS
            os.killpg(self._process.pid, number)

    def ended(self) -> bool:
        """Return whether the program has ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill the program and its descendants, and close all descriptors."""
        if self._log < 0:
            return
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        os.close(self._log)
        self._log = -1


def _session(leader: int) -> list[int]:
    """Return all processes of a session."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ())):
        with contextlib.suppress(OSError):  # it has ended in the meantime
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process uses; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return a function to run first in a child, so that the kernel kills it when the driver dies; Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the driver died before that was arranged
            os._exit(1)

    return die_with_parent
