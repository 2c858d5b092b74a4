"""Takes up what may change in ring.toml between two runs; `fixed` refuses the rest.

A change of what the checkpoints depend on (the learning rate, the trunk, models that join) counts from the first round
on that has not begun, and stands in the journal as a line of kind "settings". So a run that is interrupted in the
middle of a round finishes it as it began, and one that goes back repeats each round with the settings it had.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ... import formats
from ...errors import CkptSurgeonError, RefusedError, UsageError, check, files
from ...publish import fsync
from .. import retention
from ..folder import Folder
from ..history import History
from ..journal import Journal
from ..lines import Settings
from ..spec import changes
from ..spec.records import Model, Spec
from . import joining


def take_up(folder: Folder, spec: Spec, journal: Journal, history: History, warn: Callable[[str], None]) -> None:
    """Make a change of ring.toml part of history, after the models that join have got their first checkpoints.

    Args:
        folder: the run.
        spec: ring.toml as it is now, checked by `fixed`.
        journal: the locked journal.
        history: the steps done so far; it takes in the change.
        warn: is called with a line for the user.

    Raises:
        CkptSurgeonError: a model that joins has no first checkpoint, or the models cannot share the trunk; the run can
            go on with the ring.toml that it had.
    """
    document = spec.document()
    changed = changes.settings(history.document, document)
    if not changed:
        return
    changed |= changes.differences(history.document, document)  # programs, with `anyway`
    round = history.round + (1 if history.step == history.whole_step else 2)
    joined = [model for model in spec.models if model.name in changes.added(history.document, document)]
    _check_first(folder, spec, joined, round)
    initial = _first_checkpoints(folder, joined)
    paths = {name: folder.checkpoint(name, 0 if name in initial else history.latest(name)) for name in spec.names}
    joining.check_trunks(folder, spec, paths)
    if initial:
        formats.sync(*(paths[name] for name in initial))
        fsync(folder.root)  # which got their folders
    variables = {name: joining.variables(paths[name]) for name in initial}
    new = Settings(history.step, round, changed, document, initial, variables)
    journal.append(new, sync=True)
    history.change_settings(new)
    words = "; ".join(f"{key} {value}" for key, value in changed.items())
    warn(f"ring.toml changed, which counts from round {round} on: {words}")


def _check_first(folder: Folder, spec: Spec, joined: list[Model], round: int) -> None:
    """Refuse a model that joins in front of the others: the first one's trunk goes to all, and its own is untrained."""
    if round > spec.warmup + 1 and spec.names[0] in [model.name for model in joined]:
        what = f"models.{spec.names[0]}: joins as the first model, whose trunk would replace the trained one"
        where = "order" if spec.order else "ring.toml"
        raise UsageError(what, path=folder.spec, hint=f"list it after the others in {where}")


def _first_checkpoints(folder: Folder, joined: list[Model]) -> dict[str, str]:
    """Copy the first checkpoints of models into the run; return their fingerprints."""
    problems: list[CkptSurgeonError] = []
    for model in joined:
        with files(folder.model(model.name)):
            os.makedirs(folder.model(model.name), exist_ok=True)
        foreign = retention.foreign(folder.model(model.name))
        if foreign is not None:
            problems.append(RefusedError("contains checkpoints that do not belong to this run", path=foreign))
        if model.init is None:
            what = f"models.{model.name}: joins a run that has begun, and has no init"
            problems.append(UsageError(what, path=folder.spec, expected="the path of a checkpoint to start from"))
    check(problems)
    return {model.name: joining.copy(folder, model, model.init) for model in joined if model.init is not None}
