"""Kill a ring's driver, its workers, or both, at random moments, until it is done all the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ring_support import steps

from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.ring.folder import Folder
from ckptsurgeon.ring.reporting import status

Start = Callable[[], "subprocess.Popen[str]"]


def torment(
    folder: Path, start: Start, kills: int, chance: random.Random, every: int, patience: float = 600.0
) -> Counter[str]:
    """Run a ring to its end, with somebody killed by signal 9 again and again.

    Args:
        folder: the ring.
        start: starts a driver.
        kills: at most so many.
        chance: chooses victims and moments.
        every: the most steps between two kills.
        patience: seconds without a finished step after which something is taken to hang.

    Returns:
        How often 'driver', 'worker' and 'both' were killed.

    Raises:
        AssertionError: a driver that was let live failed, or nothing went on.
    """
    done: Counter[str] = Counter()
    driver = start()
    try:
        while True:
            goal = steps(folder) + chance.randrange(every) if done.total() < kills else 1 << 60
            _wait(folder, driver, goal, patience)
            if driver.poll() is not None:
                assert driver.returncode == 0, driver.communicate()[1]
                return done
            time.sleep(chance.random() * 0.004)
            victim = chance.choice(("driver", "worker", "both"))
            pids = [] if victim == "driver" else _workers(folder)
            if victim == "worker" and not pids:
                continue  # it has just begun, or is ending
            for pid in chance.sample(pids, min(len(pids), 1 if victim == "worker" else len(pids))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            done[victim] += 1
            if victim != "worker":
                driver.kill()
                driver.communicate()
                driver = start()
    finally:
        driver.kill()
        driver.communicate()


def _workers(folder: Path) -> list[int]:
    """Return the processes of the workers that live, by the driver's own account."""
    try:
        models = status.report(Folder.at(str(folder)))["models"]
    except CkptSurgeonError:
        return []
    return [model["pid"] for model in models if model["pid"] is not None]


def _wait(folder: Path, driver: subprocess.Popen[str], goal: int, patience: float) -> None:
    """Wait until a ring has done a number of steps, or its driver has ended."""
    before, since = -1, time.monotonic()
    while driver.poll() is None:
        now = steps(folder)
        if now >= goal:
            return
        if now != before:
            before, since = now, time.monotonic()
        assert time.monotonic() - since < patience, f"no step after {now} for {patience} s"
        time.sleep(0.0005)
