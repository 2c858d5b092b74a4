"""Refuses changes of what may not change in ring.toml during a run."""

from __future__ import annotations

import re
import shlex

from ...errors import RefusedError
from ..folder import Folder
from ..history import History
from . import changes
from .records import Spec

_PROGRAM = re.compile(r"models\.[^.]+\.(command|worker|trainer|device)|device")


def check_spec(folder: Folder, spec: Spec, history: History, anyway: bool = False) -> None:
    """Refuse a ring.toml that no longer describes the run, and name the keys. `anyway` allows other programs."""
    changed = changes.differences(history.document, spec.document())
    others = [key for key in changed if not _PROGRAM.fullmatch(key)]
    if others if anyway else changed:
        what = f"changed since the run began: {', '.join(f'{key} {words}' for key, words in changed.items())}"
        way_on = "change it back" if others else "--anyway continues with the other program, change it back"
        raise RefusedError(what, path=folder.spec, hint=f"{way_on}, {afresh(folder)}")


def afresh(folder: Folder) -> str:
    """Return the last resort of a hint."""
    return f"or start over with: ckptsurgeon ring init {shlex.quote(folder.root)} --force"
