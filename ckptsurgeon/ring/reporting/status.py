"""The state of a run, for people and scripts, from the journal, the lock and status.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ...publish import write_file
from .. import journal, json_text
from ..folder import Folder

_LONGEST = 1 << 20  # bytes of status.json that are read


def write(folder: Folder, state: str, reason: str | None, workers: Mapping[str, int | None]) -> None:
    """Write status.json, which reports the driver's state.

    Args:
        folder: the run's folder.
        state: running, stopped, converged, limit or failed.
        reason: one line that gives the reason; None if there is none.
        workers: process id of each trainer that is kept running.
    """
    values = {"pid": os.getpid(), "state": state, "reason": reason, "workers": dict(workers)}
    write_file(folder.status, (json.dumps(values) + "\n").encode(), sync=False)


def read(folder: Folder) -> dict[str, Any]:
    """Return the contents of status.json, possibly from a dead driver; empty if it is missing or invalid."""
    try:
        with open(folder.status, "rb") as file:
            values = json_text.parse(file.read(_LONGEST))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def driver(folder: Folder) -> int | None:
    """Return the process id of the driver that is running or ran last."""
    return _process(read(folder).get("pid"))


def _process(pid: object) -> int | None:
    return pid if type(pid) is int and pid > 0 else None


def report(folder: Folder) -> dict[str, Any]:
    """Return the state of a run, with the keys of `ring status`.

    Raises:
        CkptSurgeonError: the run is not initialised, or its journal is damaged.
    """
    content = journal.load(folder.journal)
    history, folder = content.history, folder.storing(content.suffixes)
    word, pid = read(folder), driver(folder)
    running = journal.is_locked(folder.journal) and pid is not None and journal.is_alive(pid)
    state, reason = (value if isinstance(value, str) else None for value in (word.get("state"), word.get("reason")))
    if running:
        state, reason = "running", None
    elif state == "running":
        state, reason = "stopped", "the driver was killed"
    workers = word.get("workers") if running else None
    workers = workers if isinstance(workers, dict) else {}
    return {
        "round": history.round,
        "state": state or "stopped",
        "reason": reason,
        "pid": pid if running else None,
        "change": history.change,
        "models": [
            {
                "name": name,
                "step": history.latest(name),
                "checkpoint": folder.relative(name, history.latest(name)),
                "loss": history.loss(name),
                "pid": _process(workers.get(name)),
            }
            for name in history.models
        ],
    }
