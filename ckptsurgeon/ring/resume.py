"""Where a run continues: the journal, checked against what is on disk.

Files that a crash left and that the journal does not mention are removed. Checkpoints that do not match the journal are
the matter of `adoption`: those that a power cut damaged, and those that somebody edited.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from ..errors import CkptSurgeonError, RefusedError, check
from . import environment, retention
from .adoption import Adoption
from .folder import Folder
from .history import History
from .journal import Head, Journal, not_initialised
from .spec import changes as spec_changes
from .spec.records import Spec

_PROGRAM = re.compile(r"models\.[^.]+\.(command|worker|trainer|device)|device")


def resume(
    folder: Folder,
    spec: Spec,
    journal: Journal,
    anyway: bool,
    warn: Callable[[str], None],
    adopt: bool = True,
) -> History:
    """Return the history that a run continues from, after cleaning up its folder.

    Args:
        folder: the run.
        spec: ring.toml as it is now.
        journal: the locked journal.
        anyway: continue in another environment.
        warn: is called with lines for the user, such as that rounds were lost.
        adopt: continue from checkpoints that were edited.

    Raises:
        RefusedError: ring.toml, the rows or the environment are not those of the run, or an edit cannot be adopted.
        DamagedError: checkpoints are missing or damaged, and no whole round is left.
    """
    content = journal.read()
    if content is None:
        raise not_initialised(folder.root)
    _check_head(folder, spec, content.head, anyway)
    history = content.history
    Adoption(folder, spec, journal, history, content.head.variables, warn).settle(adopt)
    for model in history.schedule.writers:
        retention.sweep(folder.model(model), history.kept(model, spec.max_to_keep))
    retention.update_state_files(folder, history, spec.max_to_keep)
    return history


def check_spec(folder: Folder, spec: Spec, head: Head, anyway: bool = False) -> None:
    """Refuse a ring.toml that no longer describes the run, and name the keys. `anyway` allows other programs."""
    changes = spec_changes.differences(head.spec, spec.document())
    others = [key for key in changes if not _PROGRAM.fullmatch(key)]
    if others if anyway else changes:
        what = f"changed since the run began: {', '.join(f'{key} {words}' for key, words in changes.items())}"
        way_on = "change it back" if others else "--anyway continues with the other program, change it back"
        raise RefusedError(what, path=folder.spec, hint=f"{way_on}, {_afresh(folder)}")


def _afresh(folder: Folder) -> str:
    return f"or start over with: ckptsurgeon ring init {shlex.quote(folder.root)} --force"


def _check_head(folder: Folder, spec: Spec, head: Head, anyway: bool) -> None:
    """Refuse a changed ring.toml, changed rows or a changed environment; all problems are reported at once."""
    problems: list[CkptSurgeonError] = []
    try:
        check_spec(folder, spec, head, anyway)
    except RefusedError as error:
        problems.append(error)
    if folder.data_digest() != head.data_sha256:
        what = "the rows changed since the run began"
        problems.append(RefusedError(what, path=folder.rows, hint=f"restore them, {_afresh(folder)}"))
    changes = environment.differences(head.env, environment.describe())
    if changes and not anyway:
        what = f"the environment changed since the run began: {'; '.join(changes)}"
        hint = "--anyway continues, but not to the same bytes as an uninterrupted run"
        problems.append(RefusedError(what, path=folder.journal, hint=hint))
    check(problems)
