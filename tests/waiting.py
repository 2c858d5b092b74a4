"""Waiting for what a test is about: for an event, with a limit that only a hang can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

LIMIT = 600.0  # seconds; no measure of speed: a machine may be busy with anything else


def wait_until(condition: Callable[[], object], what: object = "", every: float = 0.005) -> None:
    """Return as soon as a condition, looked at again and again, holds; fail with `what` if it never does."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, what or "waited in vain"
        time.sleep(every)


def pass_time_when(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of this process jump by a day once a file exists: timeouts pass at that moment, and no earlier."""
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 86_400 * mark.exists())
