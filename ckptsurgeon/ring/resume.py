"""Where a run goes on: what the journal says, checked against what is on disk.

Whatever a crash left that the journal does not know of is removed. If a model's latest checkpoint is not what
the journal says, as after a power cut, history goes back to the last whole round, whose checkpoints were
synced to disk.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from .. import formats
from ..errors import CkptSurgeonError, DamagedError, RefusedError, check
from ..verbs import looking
from . import environment, retention
from .folder import Folder
from .history import History
from .journal import Head, Journal, not_initialised
from .schedule import TRUNK
from .spec import changes as spec_changes
from .spec.records import Spec

_PROGRAM = re.compile(r"models\.[^.]+\.(command|worker)")


def resume(folder: Folder, spec: Spec, journal: Journal, anyway: bool, warn: Callable[[str], None]) -> History:
    """Return the history that a run goes on from, with the folder in order.

    Args:
        folder: the run.
        spec: ring.toml as it is now.
        journal: the locked journal.
        anyway: go on in another environment.
        warn: is called with lines for the user, such as that rounds were lost.

    Raises:
        RefusedError: ring.toml, the rows or the environment are not those of the run.
        DamagedError: checkpoints are missing or damaged, and no whole round is left.
    """
    content = journal.read()
    if content is None:
        raise not_initialised(folder.root)
    _check_head(folder, spec, content.head, anyway)
    history = content.history
    _check_checkpoints(folder, history, warn)
    for model in history.schedule.writers:
        retention.sweep(folder.model(model), history.kept(model, spec.max_to_keep))
    retention.update_state_files(folder, history, spec.max_to_keep)
    return history


def check_spec(folder: Folder, spec: Spec, head: Head, anyway: bool = False) -> None:
    """Refuse a ring.toml that no longer describes the run; the keys are named. `anyway` lets other programs train."""
    changes = spec_changes.differences(head.spec, spec.document())
    others = [key for key in changes if not _PROGRAM.fullmatch(key)]
    if others if anyway else changes:
        what = f"changed since the run began: {', '.join(f'{key} {words}' for key, words in changes.items())}"
        way_on = "change it back" if others else "--anyway goes on with another program, change it back"
        raise RefusedError(what, path=folder.spec, hint=f"{way_on}, {_afresh(folder)}")


def _afresh(folder: Folder) -> str:
    return f"or start afresh with: ckptsurgeon ring init {shlex.quote(folder.root)} --force"


def _check_head(folder: Folder, spec: Spec, head: Head, anyway: bool) -> None:
    """Refuse to go on with another ring.toml, other rows or in another environment; all of it is told at once."""
    problems: list[CkptSurgeonError] = []
    try:
        check_spec(folder, spec, head, anyway)
    except RefusedError as error:
        problems.append(error)
    if folder.data_digest() != head.data_sha256:
        what = "the rows changed since the run began"
        problems.append(RefusedError(what, path=folder.rows, hint=f"bring them back, {_afresh(folder)}"))
    changes = environment.differences(head.env, environment.describe())
    if changes and not anyway:
        what = f"the environment changed since the run began: {'; '.join(changes)}"
        hint = "--anyway goes on, but not to the same bytes as an uninterrupted run"
        problems.append(RefusedError(what, path=folder.journal, hint=hint))
    check(problems)


def _check_checkpoints(folder: Folder, history: History, warn: Callable[[str], None]) -> None:
    """Take history back to the last whole round if a latest checkpoint is not what the journal says."""
    written = [name for name in history.schedule.writers if name != TRUNK or history.latest(name)]
    latest = [_problem(folder, history, name, history.latest(name)) for name in written]
    broken = next((problem for problem in latest if problem is not None), None)
    if broken is None:
        return
    for model in history.models:
        problem = _problem(folder, history, model, history.whole(model))
        if problem is not None:
            what = f"cannot go on: {problem}"
            hint = f"start afresh with: ckptsurgeon ring init {shlex.quote(folder.root)} --force"
            raise DamagedError(what, path=folder.root, hint=hint)
    whole = history.whole_step
    warn(f"{broken}; going back from step {history.step} to round {history.round}, step {whole}")
    history.rewind(whole)


def _problem(folder: Folder, history: History, model: str, step: int) -> str | None:
    """Return in words what is wrong with a checkpoint, or None if it is what the journal says."""
    prefix = folder.checkpoint(model, step)
    try:
        with formats.open(prefix) as checkpoint:
            if checkpoint.fingerprint() != history.fingerprint(model, step):
                return f"{prefix}: is not the checkpoint that the journal names"
        return next((f"{prefix}: {finding.problem}" for finding in looking.verify(prefix) if not finding.ok), None)
    except CkptSurgeonError as error:
        return str(error)
