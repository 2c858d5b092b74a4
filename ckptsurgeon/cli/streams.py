"""stdout and stderr as they may be: closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import sys

from ..errors import printable
from ..lean import suppress


def prepare() -> None:
    """Make output UTF-8, with other bytes in names escaped, and occupy the numbers of closed streams.

    A file that was opened as number 1 or 2 would receive what is printed. So a closed stdin can still not be read, and
    a closed stdout not be written; a closed stderr swallows what it is given.
    """
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def complain(line: str) -> None:
    """Print a line on stderr, if stderr takes it: what was done, or not, does not depend on that.

    Args:
        line: text; whatever could control a terminal is escaped.
    """
    with suppress(OSError, ValueError):
        print(f"ckptsurgeon: {printable(line)}", file=sys.stderr)


def failure() -> OSError | None:
    """Write what was printed; the error if stdout does not take it. What Python would print at exit is dropped then."""
    try:
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")
    try:
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")
        return error
    return None
