"""`ring init`: stores the rows, has the initial weights made, and finally writes the head of the journal.

Until the journal has its head, there is no run and `ring init` may be called again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable

from .. import data, formats
from ..errors import DamagedError, RefusedError, TrainerError, UsageError, files
from ..publish import write_file
from . import environment, learning_rate, retention
from .folder import Folder
from .history import History
from .journal import Head, Journal
from .reporting import status
from .resuming import joining
from .rows import open_rows, read_rows, remember
from .schedule import step_seed
from .spec import loading, template
from .spec.records import Model, Spec
from .trainers import engines
from .trainers.attempts import attempt
from .trainers.stopping import stop
from .trainers.trainer import Request, Trainer


def init(
    path: str,
    spec: Spec | None = None,
    force: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> Spec:
    """Create a run.

    Args:
        path: its folder, which is created if necessary.
        spec: what to train; written to ring.toml. None to use the existing ring.toml.
        force: whether to replace an existing run.
        warn: is called with lines for the user.

    Returns:
        The spec of the run.

    Raises:
        RefusedError: already holds a run, or the models cannot share a trunk.
        TrainerError: a trainer failed to make initial weights.
        CkptSurgeonError: ring.toml or the rows are wrong.
    """
    folder = Folder.at(path)
    written = spec is not None
    if spec is None:
        if not os.path.isfile(folder.spec):
            hint = "write one, or give the options: --data, --target, --hidden, --layers"
            raise UsageError("there is no ring.toml here", path=path, hint=hint)
        spec = loading.load(folder.spec)
    elif os.path.exists(folder.spec) and not force:
        hint = "ring init without --data uses it, --force replaces it"
        raise RefusedError("exists already", path=folder.spec, hint=hint)
    folder = folder.storing(spec.suffixes)
    table = read_rows(folder, spec)
    with files(folder.root):
        os.makedirs(folder.root, exist_ok=True)
    with Journal.lock(folder.journal, lambda: status.driver(folder), create=True) as journal:
        _make_room(folder, spec, journal, force)
        if table is not None:
            folder.save_table(table)
            table = folder.open_table()  # this frees the unnamed file
        rows = open_rows(folder, spec, table)
        if rows is not None:
            with contextlib.closing(rows):
                rows.write(0, folder.batch)
                remember(folder, rows)
        initial = _first_checkpoints(folder, spec, table, journal, warn)
        first = {name: folder.checkpoint(name, 0) for name in spec.names}
        joining.check_trunks(folder, spec, first)
        if written:
            write_file(folder.spec, template.render(spec).encode())
        history = History(spec.steps, initial)
        for name in spec.names:
            formats.sync(folder.checkpoint(name, 0))
        retention.update_state_files(folder, history, spec.max_to_keep)
        variables = {name: joining.variables(path) for name, path in first.items()}
        journal.start(Head(spec.document(), folder.data_digest(), environment.describe(), initial, variables))
    return spec


def _make_room(folder: Folder, spec: Spec, journal: Journal, force: bool) -> None:
    """Remove what is left of an old run, or refuse to."""
    content = None
    try:
        content = journal.read()
    except DamagedError:
        if not force:
            raise
    if content is not None and not force:
        hint = f"ckptsurgeon ring run {folder.root} continues it; --force starts over"
        raise RefusedError("already holds a run", path=folder.root, hint=hint)
    names = dict.fromkeys((*spec.steps.writers, *(content.history.schedule.writers if content is not None else ())))
    for name in names:
        with files(folder.model(name)):
            os.makedirs(folder.model(name), exist_ok=True)
        foreign = retention.foreign(folder.model(name))
        if foreign and not force:
            hint = "choose another folder, or --force removes the checkpoints in it"
            raise RefusedError("contains checkpoints that do not belong to this run", path=foreign, hint=hint)
    journal.clear()
    for name in names:
        retention.sweep(folder.model(name), set())
        for path in (folder.log(name), folder.metrics(name), os.path.join(folder.model(name), "checkpoint")):
            _unlink(path)
    for path in (folder.status, folder.batch, folder.blocks(0), folder.blocks(1)):
        _unlink(path)
    with files(folder.events), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder.events)
    for name in names:
        if name not in spec.steps.writers:
            with contextlib.suppress(OSError):  # a folder that holds something else stays
                os.rmdir(folder.model(name))


def _first_checkpoints(
    folder: Folder, spec: Spec, table: data.Table | None, journal: Journal, warn: Callable[[str], None]
) -> dict[str, str]:
    """Have all initial weights made, by all trainers at once; return their fingerprints."""
    trainers = engines.trainers(spec, folder, table, [journal.fd])
    asked: list[tuple[Model, Trainer, Request, bool]] = []
    fingerprints = {}
    try:
        for model in spec.models:
            if model.init is None:
                request = Request(
                    op="init",
                    step=0,
                    round=0,
                    batch=0,
                    seed=step_seed(spec.seed, model.name, 0),
                    checkpoint=None,
                    output=folder.checkpoint(model.name, 0),
                    data=None if table is None else folder.batch,
                    learning_rate=None if model.learning_rate is None else learning_rate.at(model.learning_rate, 1),
                )
                trainer, started = trainers[model.name], False
                with contextlib.suppress(TrainerError):  # `attempt` starts it again and reports the error
                    trainer.start(request)
                    started = True
                asked.append((model, trainer, request, started))
        for model in spec.models:
            if model.init is not None:
                fingerprints[model.name] = joining.copy(folder, model, model.init)
        for model, trainer, request, started in asked:
            result = attempt(trainer, request, model, folder, None, warn, started)
            fingerprints[model.name] = result.sha256
    finally:
        stop(list(trainers.values()), 0.0, 0.3)
    return {name: fingerprints[name] for name in spec.names}


def _unlink(path: str) -> None:
    with files(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
