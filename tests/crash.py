"""Break an operation at every call that changes the disk: by kill -9, or by an error of the operating system."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# All calls by which the writers change the disk or make a change last.
CALLS = ("link", "replace", "rename", "unlink", "open", "write", "fsync", "ftruncate", "mkdir", "rmdir")


def survives(operation: Callable[[], object], calls: int) -> bool:
    """Run an operation in a child that is killed before its call number `calls`; whether it got to its end."""
    child = os.fork()
    if child == 0:
        try:
            _count_down(calls, lambda: os.kill(os.getpid(), signal.SIGKILL))
            operation()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the operation failed by itself"
    return True


class Failing:
    """A block in which call number `calls` fails with ENOSPC; `reached` says whether there was one."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.reached = False

    def __enter__(self) -> Failing:
        self.originals = _count_down(self.calls, self._fail)
        return self

    def __exit__(self, *error: object) -> None:
        for name, original in self.originals.items():
            setattr(os, name, original)

    def _fail(self) -> None:
        self.reached = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _count_down(calls: int, event: Callable[[], None]) -> dict[str, Any]:
    """Wrap os's functions so that `event` happens in place of call number `calls`, and nothing before or after."""
    left = [calls]
    originals = {name: getattr(os, name) for name in CALLS}

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                event()
            return original(*args, **kwargs)

        return counted

    for name, original in originals.items():
        setattr(os, name, wrap(original))
    return originals


def files_of(prefix: Path) -> dict[str, int]:
    """The files that stand at a prefix, temporary ones too: name -> size."""
    return {
        path.name: path.stat().st_size for path in sorted(prefix.parent.iterdir()) if path.name.startswith(prefix.name)
    }
