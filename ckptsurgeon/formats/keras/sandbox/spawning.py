"""Forks the processes that run libhdf5 from one that has already loaded it: loading takes longer than most reads.

That process, the spawner, is forked when the first HDF5 file is opened and ends with its parent. It opens and reads no
files. Requests come over a socket: a length, JSON, and file descriptors.
"""

from __future__ import annotations

import _thread
import atexit
import json
import os
import signal
import socket
import struct
import sys

from ....errors import StorageError, UnsupportedError
from .pipe import FileRange, ParentPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


_LENGTH = struct.Struct("<I")
_MOST = 200  # descriptors per message
_spawners: dict[int, Spawner] = {}  # by process id: a forked program needs its own


def spawner() -> Spawner:
    """Return the spawner of this process, which is started if necessary.

    Raises:
        UnsupportedError: this system cannot fork.
    """
    found = _spawners.get(os.getpid())
    if found is None or not found.lives:
        _spawners.clear()
        found = _spawners[os.getpid()] = Spawner()
    return found


class Spawner:
    """The parent's handle on the spawner process.

    Attributes:
        lives: False once the process is known to have ended.
    """

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise UnsupportedError("HDF5 files cannot be read on this system, which has no fork")
        self.lives = True
        self._turn = _thread.allocate_lock()  # several threads may read files at once
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pid = _fork()
        if not self.pid:
            _serve(theirs)
        theirs.close()
        atexit.register(self._socket.close)  # this ends the spawner

    def start(self, parts: list[FileRange], target: int | None, asked: int, answered: int) -> int:
        """Start a child that gets the descriptors of these files and pipes; return its process id.

        Raises:
            UnsupportedError: h5py is missing.
            StorageError: the operating system refused.
        """
        fds = [asked, answered, *(part.fd for part in parts), *([] if target is None else [target])]
        request = {"parts": [[part.base, part.size] for part in parts], "target": target is not None, "fds": len(fds)}
        answer = self._ask(request, fds)
        if "lacks" in answer:
            raise UnsupportedError(f"HDF5 files need h5py: {answer['lacks']}", hint="pip install h5py")
        if "refused" in answer:
            raise StorageError(f"could not start a process: {answer['refused']}")
        return int(answer["pid"])

    def end(self, pid: int, kill: bool) -> int:
        """Wait for a child to end and return its exit status."""
        try:
            if kill:
                os.kill(pid, signal.SIGKILL)  # its process id cannot be reused before it is waited for
            return int(self._ask({"wait": pid}, [])["status"])
        except (StorageError, ProcessLookupError):
            return 0

    def _ask(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        data = json.dumps(request).encode()
        with self._turn:
            found = None
            try:
                if self.lives:
                    self._socket.sendall(_LENGTH.pack(len(data)) + data)
                    for at in range(0, len(fds), _MOST):
                        socket.send_fds(self._socket, [b"F"], fds[at : at + _MOST])
                    found = _receive(self._socket)
            except OSError:
                pass
            except BaseException:  # Ctrl-C: a late answer must not be taken for the next one
                self.lives = False
                raise
        if found is None:
            self.lives = False
            raise StorageError("the process that reads HDF5 files was killed")
        return found


def _receive(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next message; None if the other side has closed the socket."""
    head = _exactly(channel, _LENGTH.size)
    data = _exactly(channel, _LENGTH.unpack(head)[0]) if head else None
    if data is None:
        return None
    found: dict[str, Any] = json.loads(data)
    return found


def _exactly(channel: socket.socket, length: int) -> bytes | None:
    found = b""
    while len(found) < length:
        chunk = channel.recv(length - len(found))
        if not chunk:
            return None
        found += chunk
    return found


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads; none holds a lock that the child needs
        return os.fork()


# -- in the spawner process


def _serve(channel: socket.socket) -> NoReturn:
    try:
        _settle(channel.fileno())
        lacks: str | None = None
        answer: dict[str, Any]
        try:
            from . import serving  # noqa: F401
        except ImportError as error:
            lacks = str(error)
        while (request := _receive(channel)) is not None:
            if "wait" in request:
                answer = {"status": os.waitpid(request["wait"], 0)[1]}
            else:
                fds: list[int] = []
                while len(fds) < request["fds"]:
                    mark, more, _, _ = socket.recv_fds(channel, 1, _MOST)
                    if not mark:
                        os._exit(0)
                    fds += more
                answer = {"lacks": lacks} if lacks is not None else _fork_child(channel, request, fds)
                for fd in fds:
                    os.close(fd)
            data = json.dumps(answer).encode()
            channel.sendall(_LENGTH.pack(len(data)) + data)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _settle(channel: int) -> None:
    """Detach from the parent: its signals, files, locks and garbage objects."""
    import gc

    gc.disable()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGPROF, signal.SIGPIPE, signal.SIGSEGV, signal.SIGBUS,
                   signal.SIGABRT, signal.SIGCHLD):  # fmt: skip
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    if "faulthandler" in sys.modules:
        sys.modules["faulthandler"].disable()
    silent = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(silent, fd)
    limit = max(os.sysconf("SC_OPEN_MAX"), channel + 1)
    try:
        opened = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        opened = list(range(3, min(limit, 1 << 16)))
    for fd in opened:
        if fd > 2 and fd != channel:
            try:
                os.close(fd)
            except OSError:
                continue


def _fork_child(channel: socket.socket, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Fork a child; in the child, serve requests and never return."""
    try:
        pid = os.fork()
    except OSError as error:
        return {"refused": error.strerror}
    if pid:
        return {"pid": pid}
    try:
        channel.close()
        from . import serving

        asked, answered, *rest = fds
        target = rest.pop() if request["target"] else None
        parts = [FileRange("", fd, *place) for fd, place in zip(rest, request["parts"], strict=True)]
        serving.serve(ParentPipe(asked, answered), parts, target)
    except BaseException:
        os._exit(1)
    os._exit(0)
