"""The rows of a run: the mini-batches that all models train on, and the rows that are held out.

Either all rows stand in the run's folder and batch b is a choice of them, or a Python function returns batch b. The
function runs in a process of its own, so its prints, its memory and its mistakes do not reach the driver. Then the
folder holds only the held-out rows, if any.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import data
from ..errors import CkptSurgeonError, DamagedError, RefusedError, TrainerError, files, shape_text
from ..publish import write_file
from .folder import Folder
from .spec.records import Data, Spec
from .trainers import builtin
from .trainers.log import Log, how_it_ended
from .trainers.messages import metrics_of_answer
from .trainers.program import RunningProgram
from .trainers.stopping import stop

_TIMEOUT = 600.0  # seconds that a source may take for a batch, including its imports
_GRACE = 0.3  # seconds to exit after the end of its input, and after SIGTERM
_ORDER = (3, 0, 2, 1)  # the order in which batches are asked for again


class Rows(Protocol):
    """The mini-batches of a run."""

    def write(self, batch: int, path: str) -> None:
        """Write the .npz of a mini-batch, counted from 0 over the whole run.

        Raises:
            CkptSurgeonError: there is no such batch, or it cannot be written.
        """

    def close(self) -> None:
        """Stop whatever runs for it."""


class StoredRows:
    """Mini-batches of the rows in the run's folder.

    Args:
        table: all rows.
        settings: the size of a mini-batch and the share that is held out.
        seed: the run's seed.
    """

    def __init__(self, table: data.Table, settings: Data, seed: int) -> None:
        self._table = table
        self._batches = data.Batches(len(table.X), settings.batch_size, seed, settings.holdout)

    def write(self, batch: int, path: str) -> None:
        """Write the rows of a mini-batch."""
        rows = self._batches.rows(batch)
        data.write_batch(path, self._table.X[rows], self._table.y[rows])

    def close(self) -> None:
        """Do nothing: no process was started."""


class SourceRows:
    """Mini-batches that a Python function returns, called in a process of its own.

    Args:
        file: the Python file.
        function: the name of the function.
        classes: the number of classes or their names; None if y holds values.
        log: the file for what the function prints.
    """

    def __init__(self, file: str, function: str, classes: int | tuple[str, ...] | None, log: str) -> None:
        self._file = file
        self._function = function
        self._classes = classes
        self._log = Log(log)
        self._program: RunningProgram | None = None
        self._requests = 0

    def write(self, batch: int, path: str) -> None:
        """Call the function with the number of a batch, and write the rows that it returns."""
        self.call(self._function, batch, path)

    def call(self, function: str, batch: int | None, path: str) -> None:
        """Write the rows that a function of the file returns; with None, it is called without an argument."""
        program = self._running()
        self._requests += 1
        request = {"step": self._requests, "function": function, "batch": batch, "output": path}
        self._log.mark()
        program.send(json.dumps(request).encode() + b"\n")
        try:
            line = program.line(deadline := time.monotonic() + _TIMEOUT)
            if line is None:
                raise TrainerError(how_it_ended(program.wait(deadline)))
            metrics_of_answer(line, self._requests)
        except TimeoutError:
            raise self._failed(f"did not answer within {_TIMEOUT:g} s", function, batch) from None
        except TrainerError as error:
            raise self._failed(error.what, function, batch) from None

    def _failed(self, what: str, function: str, batch: int | None) -> TrainerError:
        self.close()
        call = f"{function}({'' if batch is None else batch})"
        words = self._log.last_words()
        return TrainerError(
            f"{call} {what}", path=self._file, hint=f"last lines of its log: {words}" if words else None
        )

    def _running(self) -> RunningProgram:
        if self._program is None:
            program = [*builtin.PYTHON, "ckptsurgeon.data.source", self._file, json.dumps(self._classes)]
            with files(self._file), open(self._file, "rb"):
                pass  # one clear error if it is not there
            self._program = RunningProgram(
                program, os.path.dirname(self._file), self._log.path, talk=True, environment=builtin.environment()
            )
        return self._program

    def close(self) -> None:
        """Stop the process."""
        if self._program is not None:
            program, self._program = self._program, None
            stop([program], _GRACE, _GRACE)


def open_rows(folder: Folder, spec: Spec, table: data.Table | None) -> Rows | None:
    """Return the mini-batches of a run; None if its trainers have their own."""
    if spec.data is None or table is None:
        return None
    found = _source(folder, spec.data, os.path.join(folder.rows, "source.log"))
    return found if found is not None else StoredRows(table, spec.data, spec.seed)


def _source(folder: Folder, settings: Data, log: str) -> SourceRows | None:
    if settings.source is None:
        return None
    file, function = settings.source
    return SourceRows(folder.resolve(file), function, settings.classes, log)


def held_out(spec: Spec, table: data.Table, at_once: int) -> Iterator[data.Table]:
    """Yield the held-out rows of a run, in parts; a part of stored rows is a random subset."""
    assert spec.data is not None
    if spec.data.source is not None:
        yield from (table.take(slice(start, start + at_once)) for start in range(0, len(table.X), at_once))
    elif spec.data.holdout:
        batches = data.Batches(len(table.X), spec.data.batch_size, spec.seed, spec.data.holdout)
        yield from map(table.take, batches.held_out_parts(at_once))


def examples(folder: Folder, table: data.Table, count: int) -> NDArray[np.float32]:
    """Return the features of at most `count` rows, to try models on: of the last mini-batch if the table has none."""
    return table.X[:count] if len(table.X) else data.load_npz(folder.batch)["X"][:count]


def read_rows(folder: Folder, spec: Spec) -> data.Table | None:
    """Read the rows for a new run, before anything is changed.

    Large tables are kept in an unnamed file on the disk of the run. Of a Python source, these are the held-out rows.

    Raises:
        CkptSurgeonError: they cannot be read, or not be trained on.
    """
    if spec.data is None:
        return None
    file, target = folder.resolve(spec.data.file), spec.data.target
    if spec.data.source is not None:
        table = _ask_source(folder, spec.data)
    else:
        if target is not None and file.endswith(".npy"):  # the target is a file then, too
            target = folder.resolve(target)
        disk = folder.rows
        while not os.path.isdir(disk):
            disk = os.path.dirname(disk)
        table = data.read(file, target, folder=disk)
        with files(file):
            data.Batches(len(table.X), spec.data.batch_size, spec.seed, spec.data.holdout)
    if table.classes is not None and len(table.classes) < 2:
        raise RefusedError("the target has only one class", path=file, found=table.classes[0])
    return table


def _ask_source(folder: Folder, settings: Data) -> data.Table:
    """Return the held-out rows of a source; without them no rows, but those with the shape of a batch."""
    classes = settings.classes
    names = classes if isinstance(classes, tuple) else None if classes is None else tuple(map(str, range(classes)))
    with _scratch(folder, settings) as (source, path):
        source.write(0, path)
        first = data.load_npz(path)
        if settings.held_out is None:
            return data.Table(first["X"][:0], first["y"][:0], names)
        source.call(settings.held_out, None, path)
        rows = data.load_npz(path)
    for name in ("X", "y"):
        if rows[name].shape[1:] != first[name].shape[1:]:
            what = f"{name} of {settings.held_out}() has another shape than a batch"
            expected, found = (shape_text("rows", *each[name].shape[1:]) for each in (first, rows))
            raise RefusedError(what, path=settings.file, expected=expected, found=found)
    return data.Table(rows["X"], rows["y"], names)


@contextlib.contextmanager
def _scratch(folder: Folder, settings: Data) -> Iterator[tuple[SourceRows, str]]:
    """Start a source apart from the run, with a path to write to."""
    with tempfile.TemporaryDirectory(prefix="ckptsurgeon-") as scratch:
        source = _source(folder, settings, os.path.join(scratch, "source.log"))
        assert source is not None
        with contextlib.closing(source):
            yield source, os.path.join(scratch, "batch.npz")


def remember(folder: Folder, rows: Rows | None) -> None:
    """Note a source's first batch, which a new run has just written, so that `check_same` recognises the source."""
    if isinstance(rows, SourceRows):
        write_file(os.path.join(folder.rows, "source.json"), json.dumps({"sha256": _digest(folder.batch)}).encode())


def check_same(folder: Folder, rows: Rows | None) -> None:
    """Refuse to continue a run whose source returns another first batch than at `ring init`.

    Raises:
        RefusedError: it does.
    """
    if isinstance(rows, SourceRows):
        path = os.path.join(folder.rows, "source.json")
        with files(path), open(path, "rb") as file:
            try:
                expected = json.load(file)["sha256"]
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedError("does not name the first batch") from error
        rows.write(0, folder.batch)
        if _digest(folder.batch) != expected:
            hint = f"restore the function, or start over with: ckptsurgeon ring init {folder.root} --force"
            raise RefusedError(
                "the source returns another batch 0 than when the run began", path=folder.root, hint=hint
            )


def impurity(folder: Folder, spec: Spec) -> str | None:
    """Describe how the batches of a source depend on more than their number; None if they do not, or if there is none.

    Four batches are asked for in order, then in another order, and then by another process.
    """
    if spec.data is None or spec.data.source is None:
        return None
    digests: dict[int, str] = {}
    for where in ("in another order", "by another process"):
        try:
            with _scratch(folder, spec.data) as (source, path):
                for batch in (*sorted(_ORDER), *_ORDER) if not digests else _ORDER:
                    source.write(batch, path)
                    if digests.setdefault(batch, found := _digest(path)) != found:
                        return (
                            f"returned other rows for batch {batch} when asked {where}: it must depend on nothing else"
                        )
        except CkptSurgeonError as error:
            return str(error)
    return None


def _digest(path: str) -> str:
    with files(path), open(path, "rb") as file:
        return sha256(file.read()).hexdigest()
