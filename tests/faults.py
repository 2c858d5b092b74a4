"""Errors of the operating system, injected below the program: every call that it makes can be made to fail.

The functions of `os` by which the package reads and writes are replaced while a command runs in this process. A call
counts if it concerns a folder: by a path in it, or by a descriptor that was opened there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ckptsurgeon import cli

BY_PATH = (
    "open", "stat", "lstat", "listdir", "link", "replace", "rename", "unlink", "mkdir", "statvfs", "scandir", "rmdir",
)  # fmt: skip
BY_FD = (
    "read", "pread", "preadv", "write", "pwrite", "fsync", "fstat", "ftruncate", "close", "fchmod", "fchown", "fdopen",
)  # fmt: skip
CALLS = (*BY_PATH, *BY_FD, "flock")
READS = ("read", "pread", "preadv", "write", "pwrite")  # may also take less than they were asked to
KINDS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EMFILE")


class Faults:
    """A block in which calls that concern a folder are counted, and one or more of them fail.

    Args:
        folder: only calls on its files count.
        at: number of the call that fails; None: none.
        kind: the name of the error.
        forever: whether all calls of the same function fail from then on.
        short: whether reads and writes take at most that many bytes; 0: no limit.

    Attributes:
        names: the functions that were called, in order.
        silent: stderr takes everything.
        failed: the function that failed, or None.
    """

    silent = False

    def __init__(self, folder: Path, at: int | None = None, kind: str = "EIO", forever: bool = False, short: int = 0):
        self.folder, self.at, self.kind, self.forever, self.short = str(folder), at, kind, forever, short
        self.names: list[str] = []
        self.failed: str | None = None
        self._fds: set[int] = set()
        self._originals: dict[tuple[Any, str], Any] = {}

    def __enter__(self) -> Faults:
        for name in (*BY_PATH, *BY_FD):
            self._patch(os, name)
        self._patch(fcntl, "flock")
        return self

    def _patch(self, module: Any, name: str) -> None:
        original = self._originals[module, name] = getattr(module, name)
        setattr(module, name, self._wrapped(name, original))

    def __exit__(self, *error: object) -> None:
        for (module, name), original in self._originals.items():
            setattr(module, name, original)

    def _concerns(self, name: str, args: tuple[Any, ...]) -> bool:
        if not args:
            return False
        if isinstance(args[0], int):
            return args[0] in self._fds
        with contextlib.suppress(TypeError, ValueError):
            return os.path.abspath(os.fsdecode(args[0])).startswith(self.folder)
        return False

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._concerns(name, args):
                return original(*args, **kwargs)
            number = len(self.names)
            self.names.append(name)
            fails = number == self.at or (self.forever and self.failed == name)
            if fails:
                self.failed = name
            if fails and name != "close":
                raise self._error(args)
            result = original(*self._cut(name, args), **kwargs)
            if name == "open":
                self._fds.add(result)
            if name == "close":
                self._fds.discard(args[0])
                if fails:
                    raise self._error(args)  # the descriptor is closed nevertheless, as on Linux
            return result

        return call

    def _error(self, args: tuple[Any, ...]) -> OSError:
        number = getattr(errno, self.kind)
        names = [each for each in args if isinstance(each, str)]
        return OSError(number, os.strerror(number), *names[:1])

    def _cut(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self.short or name not in READS:
            return args
        if name in ("write", "pwrite"):
            return (args[0], memoryview(args[1]).cast("B")[: self.short], *args[2:])
        if name == "preadv":
            return (args[0], [memoryview(args[1][0]).cast("B")[: self.short]], *args[2:])
        return (args[0], min(args[1], self.short), *args[2:])


class Outcome:
    """What a command did.

    Attributes:
        status: its exit status.
        out: what it printed.
        lines: what it printed on stderr.
    """

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.lines = err.splitlines()


def run(*args: str) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([*args])
    return Outcome(status, out.getvalue(), err.getvalue())


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sampled(count: int, wanted: int, offset: int) -> Iterator[int]:
    """At most so many numbers below `count`, evenly spread; another offset gives others."""
    if count <= wanted:
        yield from range(count)
        return
    yield from sorted({(offset * 7919 + number * count // wanted) % count for number in range(wanted)})
