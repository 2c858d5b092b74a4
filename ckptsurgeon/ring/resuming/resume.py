"""Where a run continues: the journal, checked against what is on disk.

Files that a crash left and that the journal does not mention are removed. Checkpoints that do not match the journal are
the matter of `adoption`: those that a power cut damaged, and those that somebody edited.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import CkptSurgeonError, RefusedError, check
from .. import environment, retention
from ..folder import Folder
from ..history import History
from ..journal import Content, Journal, not_initialised
from ..spec import fixed
from ..spec.records import Spec
from . import settings
from .adoption import Adoption


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
    history = content.history
    _check_head(folder, spec, content, anyway)
    Adoption(folder, spec, journal, history, warn).settle(adopt)
    settings.take_up(folder, spec, journal, history, warn)
    for model in history.schedule.writers:
        others = retention.sweep(folder.model(model), history.kept(model, spec.max_to_keep), history.furthest)
        if others:
            warn(f"{others[0]} is not a checkpoint of this run, which will write its own under this name; move it away")
    retention.update_state_files(folder, history, spec.max_to_keep)
    return history


def _check_head(folder: Folder, spec: Spec, content: Content, anyway: bool) -> None:
    """Refuse a changed ring.toml, changed rows or a changed environment; all problems are reported at once."""
    problems: list[CkptSurgeonError] = []
    head = content.head
    try:
        fixed.check_spec(folder, spec, content.history, anyway)
    except RefusedError as error:
        problems.append(error)
    if folder.data_digest() != head.data_sha256:
        what = "the rows changed since the run began"
        problems.append(RefusedError(what, path=folder.rows, hint=f"restore them, {fixed.afresh(folder)}"))
    changes = environment.differences(head.env, environment.describe())
    if changes and not anyway:
        what = f"the environment changed since the run began: {'; '.join(changes)}"
        hint = "--anyway continues, but not to the same bytes as an uninterrupted run"
        problems.append(RefusedError(what, path=folder.journal, hint=hint))
    check(problems)
