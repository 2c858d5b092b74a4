"""Stops processes together: first the end of their input, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

_LOOK = 0.005  # seconds between two checks of whether something has ended


class Stoppable(Protocol):
    """Something that runs and can be stopped: a trainer, or a single program.

    No member fails if nothing is running: `ended` returns True and the others do nothing.
    """

    def end_input(self) -> None:
        """Announce that no more requests will come, and do not wait. A trainer that stays running exits then."""

    def terminate(self) -> None:
        """Ask the process to exit at once, as SIGTERM does, and do not wait."""

    def ended(self) -> bool:
        """Return whether nothing is running any more, without waiting."""

    def kill(self) -> None:
        """Kill whatever is still running and release its resources."""


def stop(running: Sequence[Stoppable], patience: float, grace: float) -> None:
    """Stop all of them together.

    Args:
        running: what to stop; some of it may have ended already.
        patience: how many seconds they may take to exit after the end of their input.
        grace: how many seconds they may take to exit after SIGTERM.
    """
    for each in running:
        each.end_input()
    wait_for(running, patience)
    for each in running:
        if not each.ended():
            each.terminate()
    wait_for(running, grace)
    for each in running:
        each.kill()


def wait_for(running: Sequence[Stoppable], seconds: float) -> bool:
    """Wait until all of them have ended, but no longer than `seconds`; return whether they have."""
    deadline = time.monotonic() + seconds
    while not all(each.ended() for each in running):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK)
    return True
