"""How one model votes: its outputs for given rows.

A network of the built-in trainer's kind is read from its checkpoint and evaluated in NumPy (skflow_net.py). A model
with a `trainer` votes through a process of that trainer. Any other model votes through its `predict` program. {data}
is an .npz with `X`, float32 [rows, …]. The program writes
[rows, outputs] to {output}, as .npy, as .npz with one array, or as csv without a header: a classifier's probabilities
in the order of the classes, or a regressor's values. It may be called several times for many rows. A model without
either has no vote.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ... import data
from ...errors import ChangedError, NotFoundError, TrainerError, UnsupportedError, files, one_line, shape_text
from ...formats import locating
from ..folder import Folder
from ..spec.records import PREDICT_PLACEHOLDERS, Model, Spec
from ..trainers.log import Log, how_it_ended
from ..trainers.program import RunningProgram
from ..trainers.stopping import stop
from ..trainers.trainer import Request
from . import skflow_net
from .predictors import Predictor, Predictors
from .skflow_net import Floats

Result = TypeVar("Result")

_TRIES = 20  # a run replaces its checkpoints once a round, which takes longer than to read or link them
_AT_ONCE = 100_000  # rows per call of a predict program (start-up is slow)
_FEW = 8192  # rows per call of an in-process network (no start-up cost)

_PLACEHOLDER = re.compile(rf"\{{({'|'.join(sorted(PREDICT_PLACEHOLDERS))})\}}")
_GRACE = 2.0  # seconds between asking a program that took too long to end, and killing it
_NUMBER = 64  # bytes that one number of a csv may take
_LEAST = 1e-15  # a smaller probability counts as this one, so that a loss is always finite


@dataclass(frozen=True)
class Task:
    """What the models of a run predict.

    Attributes:
        shape: the shape of one row.
        outputs: the number of classes, or of values.
        classifier: whether the outputs are probabilities.
    """

    shape: tuple[int, ...]
    outputs: int
    classifier: bool

    @classmethod
    def of(cls, table: data.Table) -> Task:
        """Return the task that the rows of a run set."""
        return cls(table.X.shape[1:], table.outputs, table.classes is not None)


class Voter(Protocol):
    """A model that has a vote."""

    def outputs(self, X: NDArray[np.float32]) -> Floats:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs]."""


def outputs(
    spec: Spec, folder: Folder, name: str, checkpoint: str, X: NDArray[np.float32], asked: Predictors
) -> Floats:
    """Return the outputs of one model.

    Args:
        spec: of its run.
        folder: of its run, which has rows.
        name: of the model.
        checkpoint: one of its checkpoints, which is not removed in the meantime.
        X: rows, float32 [rows, …].
        asked: the trainers that predict.

    Returns:
        The probabilities of the classes, or the values, of each row: float64 [rows, outputs].

    Raises:
        UnsupportedError: the model has no vote.
        TrainerError: its program failed.
        CkptSurgeonError: its checkpoint cannot be read.
    """
    model = next(model for model in spec.models if model.name == name)
    with voter(model, folder, checkpoint, Task.of(folder.open_table()), asked.get(name)) as vote:
        return ask(vote, X)


def rows_at_once(spec: Spec) -> int:
    """Return the number of rows per call for all models of a run."""
    return _FEW if all(model.predict is None for model in spec.models) else _AT_ONCE


def ask(vote: Voter, X: NDArray[np.float32]) -> Floats:
    """Return the outputs of a model for any number of rows."""
    parts = [vote.outputs(X[start : start + _AT_ONCE]) for start in range(0, len(X), _AT_ONCE)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def loss(outputs: Floats, y: NDArray[Any], classes: tuple[str, ...] | None) -> float:
    """Return the mean cross-entropy of probabilities, or the mean squared error of values.

    Args:
        outputs: [rows, outputs].
        y: class indices [rows], or values [rows] or [rows, outputs].
        classes: None if y holds values.
    """
    if classes is None:
        return float(np.mean(np.square(outputs - y.astype(np.float64).reshape(outputs.shape))))
    return float(np.mean(-np.log(np.maximum(outputs[np.arange(len(y)), y], _LEAST))))


def despite_a_driver(attempt: Callable[[], Result]) -> Result:
    """Call `attempt`, which opens checkpoints of a run, again while a running driver removes one of them."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(NotFoundError, ChangedError):
            return attempt()
    return attempt()


@contextlib.contextmanager
def voter(
    model: Model, folder: Folder, checkpoint: str, task: Task, predictor: Predictor | None, pin: bool = False
) -> Iterator[Voter]:
    """Prepare a model for voting.

    Args:
        model: which one.
        folder: of its run.
        checkpoint: its weights.
        task: the features and outputs that it must have.
        predictor: the trainer of a model that has a `trainer`; None for other models.
        pin: keep the checkpoint even if the run goes on and removes it.

    Raises:
        UnsupportedError: it has no vote.
        CkptSurgeonError: its checkpoint cannot be read.
    """
    if model.predict is None and predictor is None:
        found = skflow_net.load(checkpoint)
        if found.shape != (math.prod(task.shape), task.outputs) or found.classifier != task.classifier:
            expected = f"{math.prod(task.shape)} features and {task.outputs} outputs"
            raise UnsupportedError(f"its network does not have {expected}", path=checkpoint)
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="ckptsurgeon-") as scratch:
        if pin:
            checkpoint = duplicate(checkpoint, scratch, link=True)
        if predictor is not None:
            yield _TrainerVoter(model, checkpoint, task, scratch, predictor)
        else:
            yield _ProgramVoter(model, checkpoint, task, scratch, folder)


class _AskedVoter(ABC):
    """A model that votes through another process, which reads rows from a file and writes its outputs to another.

    Args:
        model: its name and limits.
        checkpoint: its weights.
        task: what it is asked for.
        scratch: a folder for what is handed over.
    """

    def __init__(self, model: Model, checkpoint: str, task: Task, scratch: str) -> None:
        self._model = model
        self._checkpoint = checkpoint
        self._task = task
        self._data = os.path.join(scratch, "rows.npz")
        self._output = os.path.join(scratch, "output.npy")

    def outputs(self, X: NDArray[np.float32]) -> Floats:
        """Ask for the outputs; TrainerError if there are none."""
        with files(self._data):
            np.savez(self._data, X=np.asarray(X))
            for path in (self._output, self._output + ".npz"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        try:
            self._ask()
            return self._read(len(X))
        except TrainerError as error:
            words = self._last_words()
            raise TrainerError(
                f"model {self._model.name}: {self._who} {error.what}",
                expected=error.expected,
                found=error.found,
                hint=f"last lines of its log: {words}" if words else None,
            ) from None

    _who: str  # the process, as messages call it

    @abstractmethod
    def _ask(self) -> None:
        """Have the outputs written."""

    @abstractmethod
    def _last_words(self) -> str:
        """Return the end of the process's log."""

    def _read(self, rows: int) -> Floats:
        """Return what the program wrote, checked."""
        path = self._output if os.path.exists(self._output) else self._output + ".npz"  # np.savez adds that
        if not os.path.exists(path):
            raise TrainerError("did not write {output}")
        try:
            values = _numbers(path, rows * self._task.outputs)
        except Exception as error:
            raise TrainerError(f"wrote an {{output}} that cannot be read: {one_line(error)}") from None
        if values.ndim == 1 and self._task.outputs == 1:
            values = values[:, None]
        if values.shape != (rows, self._task.outputs):
            expected, found = (shape_text(*shape) for shape in ((rows, self._task.outputs), values.shape))
            raise TrainerError("wrote an {output} of the wrong shape", expected=expected, found=found)
        if not np.isfinite(values).all():
            raise TrainerError("wrote an {output} that is not finite")
        if self._task.classifier and (values.min() < -1e-6 or np.abs(values.sum(axis=1) - 1).max() > 1e-3):
            raise TrainerError("wrote an {output} that does not hold probabilities", expected="rows that add up to 1")
        return values


class _TrainerVoter(_AskedVoter):
    """A model that votes through its trainer."""

    _who = "its trainer"

    def __init__(self, model: Model, checkpoint: str, task: Task, scratch: str, predictor: Predictor) -> None:
        super().__init__(model, checkpoint, task, scratch)
        self._predictor = predictor

    def _ask(self) -> None:
        trainer = self._predictor.trainer
        seed, checkpoint, output, rows = self._predictor.seed, self._checkpoint, self._output, self._data
        try:
            trainer.start(Request("predict", 0, 0, 0, seed, checkpoint, output, rows))
            trainer.finish()
        except TrainerError:
            stop([trainer], 0.0, _GRACE)
            raise

    def _last_words(self) -> str:
        return self._predictor.trainer.last_words()


class _ProgramVoter(_AskedVoter):
    """A model that votes through its `predict` program, which is started in the folder of the run."""

    _who = "its predict program"

    def __init__(self, model: Model, checkpoint: str, task: Task, scratch: str, folder: Folder) -> None:
        super().__init__(model, checkpoint, task, scratch)
        self._folder = folder
        self._log = Log(os.path.join(scratch, "predict.log"))
        values = {"checkpoint": checkpoint, "data": self._data, "output": self._output}
        assert model.predict is not None
        self._arguments = [_PLACEHOLDER.sub(lambda match: values[match[1]], text) for text in model.predict]

    def _last_words(self) -> str:
        return self._log.last_words()

    def _ask(self) -> None:
        self._log.mark()
        deadline = time.monotonic() + self._model.timeout
        program = RunningProgram(self._arguments, self._folder.root, self._log.path, memory=self._model.memory)
        try:
            while (line := program.line(deadline)) is not None:
                program.log(line)
            status = program.wait(deadline)
        except TimeoutError:
            raise TrainerError(f"did not end within {self._model.timeout:g} s") from None
        finally:
            stop([program], 0.0, _GRACE)
        if status:
            raise TrainerError(how_it_ended(status))


def _numbers(path: str, count: int) -> Floats:
    """Read the numbers that a program wrote, in any container; raises any exception if there are none."""
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic == b"\x93NUMPY":
        found = data.load_npy(path)
    elif magic[:4] == b"PK\x03\x04":
        (found,) = data.load_npz(path).values()
    else:
        if os.path.getsize(path) > _NUMBER * (count + 1):
            raise ValueError(f"it has {os.path.getsize(path)} bytes for {count} numbers")
        with open(path, encoding="utf-8", newline="") as text:
            found = np.array([[float(cell) for cell in row] for row in csv.reader(text) if row])
    if found.dtype.kind not in "fiub":
        raise ValueError(f"it holds {found.dtype}")
    return found.astype(np.float64)


def duplicate(checkpoint: str, folder: str, link: bool) -> str:
    """Copy or hard-link a checkpoint into another folder.

    Args:
        checkpoint: the checkpoint.
        folder: the other folder.
        link: whether to hard-link it if the file system can.

    Returns:
        Its new path.
    """
    for path in locating.files_of(locating.locate(checkpoint)):
        name = os.path.join(folder, os.path.basename(path))
        with files(path):
            try:
                if not link:
                    raise OSError
                os.link(os.path.realpath(path), name)
            except OSError:
                shutil.copyfile(path, name)
    return os.path.join(folder, os.path.basename(checkpoint))
