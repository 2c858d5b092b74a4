"""A trainer's log and exit status, shortened to fit into one line of a message."""

from __future__ import annotations

import os
import signal

_LINES = 3  # lines of a failed trainer that are shown


class Log:
    """The log file of a trainer, which remembers where the current attempt begins."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._start = self._size()

    def mark(self) -> None:
        """Remember that an attempt begins here."""
        self._start = self._size()

    def last_words(self) -> str:
        """Return the last lines since the mark, joined to one; empty if there are none."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(self._start, self._size() - 4096))
                lines = [line.strip() for line in file.read(4096).splitlines()]
        except OSError:
            return ""
        return " | ".join(excerpt(line, 200) for line in [line for line in lines if line][-_LINES:])

    def _size(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0


def how_it_ended(status: int) -> str:
    """Describe the exit status of a process; negative for a signal."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def excerpt(text: bytes, length: int = 80) -> str:
    """Return text that a trainer wrote, shortened to fit into one line of a message."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * length].decode(errors="replace"))
    return shown if len(shown) <= length else shown[:length] + "…"
