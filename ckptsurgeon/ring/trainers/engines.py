"""The engines that can run the trainers of a ring: the one place where an engine is chosen.

To add an engine, write a module next to `local` with a function like `local.trainers`, and add a line to `_ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ...data import Table
from ..folder import Folder
from ..spec.records import Spec
from . import local
from .trainer import Trainer

# Makes one trainer per model, by name; none of them is running. The arguments are those of `trainers`.
Engine = Callable[[Spec, Folder, Table | None, Iterable[int]], Mapping[str, Trainer]]

_ENGINES: Mapping[str, Engine] = {
    "local": local.trainers,
}

_CHOSEN = "local"  # ring.toml has no key for it while there is only one engine


def trainers(spec: Spec, folder: Folder, table: Table | None, inherited: Iterable[int]) -> Mapping[str, Trainer]:
    """Return a trainer for each model, by name; none of them is running.

    Args:
        spec: the models.
        folder: the run.
        table: the rows, whose shape determines the built-in trainer's initial weights; None if the run has no data.
        inherited: descriptors to keep open while a trainer runs. They hold the lock on the run.
    """
    return _ENGINES[_CHOSEN](spec, folder, table, inherited)
