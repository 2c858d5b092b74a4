"""Finds the rows of a mini-batch by its number: in a file, or in the ring whose folder a checkpoint is in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import Batches, Table, read_batch
from ...data import read as read_table
from ...errors import RefusedError, UsageError, files
from ...ring import folder
from ...ring.rows import open_rows
from ...ring.spec import loading
from ...ring.spec.records import Spec
from ...schemes.skflow_names import CLASSIFIER
from ..checkpoints.architecture import Architecture

# As `data.Batches` and [data] of ring.toml call them.
_DEFAULTS = {"batch_size": 32, "seed": 0, "holdout": 0.0}

_Rows = tuple[NDArray[Any], NDArray[Any]]


@dataclass
class BatchSource:
    """The rows to train on when a request or command gives only the number of a batch.

    Attributes:
        data: the file with the rows; None for the rows of the ring that the checkpoint belongs to.
        target: what to predict, as in `data.read`; None for the arrays X and y of an .npz.
        batch_size, seed, holdout: as in `data.Batches`; None for those of the ring, or the defaults of a file.
    """

    data: str | None = None
    target: str | None = None
    batch_size: int | None = None
    seed: int | None = None
    holdout: float | None = None
    _opened: dict[object, Callable[[int], _Rows]] = field(default_factory=dict)  # returns the rows of a batch
    _close: Callable[[], None] | None = None  # ends the process that returns them, if any

    def rows(self, checkpoint: str, net: Architecture, batch: int) -> _Rows:
        """Return X and y of a batch, y as class numbers or values.

        Args:
            checkpoint: the checkpoint to train.
            net: its network.
            batch: the number of the batch, counted from 0 over all epochs.

        Raises:
            UsageError: there are no rows: neither a file nor a ring.
            CkptSurgeonError: the rows cannot be read, or their target is not the network's.
        """
        where = self.data or _ring_of(checkpoint)
        if where is None:
            hint = "--data FILE names the rows, and a ring's folder has its own"
            raise UsageError("there are no rows to train on", path=checkpoint, hint=hint)
        key = (where, net.head, net.outputs)
        if key not in self._opened:
            if self._close is not None:
                self._close()
            self._opened, self._close = {}, None
            self._opened = {key: self._file(where, net) if self.data else self._ring(where, net)}
        return self._opened[key](batch)

    def _file(self, path: str, net: Architecture) -> Callable[[int], _Rows]:
        with files(path):
            if self.target is None:
                X, y = read_batch(path)
            else:
                values = Table(np.zeros((0, 0), np.float32), np.zeros(0, np.float32), None)
                table = read_table(path, self.target, like=None if net.head == CLASSIFIER else values)
                _check_target(f"the target {self.target!r}", table, net)
                X, y = table.X, table.y
            return self._batches(X, y, _DEFAULTS)

    def _ring(self, root: str, net: Architecture) -> Callable[[int], _Rows]:
        run = folder.existing(root)
        spec = loading.load(run.spec)
        if spec.data is None:
            raise UsageError("has no [data]", path=run.spec, hint="--data FILE names the rows")
        with files(run.rows):
            table = run.open_table()
            _check_target(f"the target {spec.data.target!r} of the ring", table, net)
        if spec.data.source is not None:
            return self._function(run, spec, table)
        given = {"batch_size": spec.data.batch_size, "seed": spec.seed, "holdout": spec.data.holdout}
        return self._batches(table.X, table.y, given)

    def _function(self, run: folder.Folder, spec: Spec, table: Table) -> Callable[[int], _Rows]:
        """Return what asks the ring's Python function for a batch; its process ends with this one, if not before."""
        given = [name for name in _DEFAULTS if getattr(self, name) is not None]
        if given:
            what = f"--{given[0].replace('_', '-')}: the ring's batches come from a Python function"
            raise UsageError(what, path=run.spec, hint="give only --batch")
        source = open_rows(run, spec, table)
        assert source is not None
        self._close = source.close

        def rows(batch: int) -> _Rows:
            with tempfile.TemporaryDirectory(prefix="ckptsurgeon-") as scratch:
                path = os.path.join(scratch, "batch.npz")
                source.write(batch, path)
                return read_batch(path)

        return rows

    def _batches(self, X: NDArray[Any], y: NDArray[Any], defaults: dict[str, Any]) -> Callable[[int], _Rows]:
        own = {name: getattr(self, name) for name in defaults}
        batches = Batches(len(X), **{name: defaults[name] if own[name] is None else own[name] for name in defaults})

        def rows(batch: int) -> _Rows:
            chosen = batches.rows(batch)
            return np.ascontiguousarray(X[chosen]), y[chosen]

        return rows


def _check_target(what: str, table: Table, net: Architecture) -> None:
    """Refuse classes of another number than the network's; other mismatches show in the rows themselves."""
    if net.head == CLASSIFIER and (table.classes is None or len(table.classes) != net.outputs):
        found = f"{len(table.classes)} classes" if table.classes is not None else "numbers with a fraction"
        raise RefusedError(f"{what} does not match the network", expected=f"{net.outputs} classes", found=found)


def _ring_of(checkpoint: str) -> str | None:
    """Return the nearest folder around a checkpoint that has a ring.toml."""
    path = os.path.abspath(checkpoint)
    while (above := os.path.dirname(path)) != path:
        path = above
        if os.path.isfile(folder.Folder.at(path).spec):
            return path
    return None
