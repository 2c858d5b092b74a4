"""`ring check`: runs each trainer on copies of its checkpoint and reports violations of the contract.

The checks, in this order; a trainer that fails 'train' is not tested further:

source    the Python source of the rows, if there is one: batch b depends only on b, not on what was asked before
train     it answers for the requested step, and writes an undamaged, finite checkpoint with the same names, shapes
          and dtypes
reads     it continues from the checkpoint: the same request with another one gives different weights
repeat    the same request gives the same bytes after other steps: no weights are kept in memory
input     it does not modify the checkpoint and the rows that it is given
init      initial weights depend only on the seed (models without `init`)
end       it exits within 5 seconds after the end of its input (workers)
restart   a new process gives the same bytes again: nothing is random
sigterm   it dies of SIGTERM
predict   its `predict` program, or its `trainer`, returns predictions (models that have one)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256

from .. import data, formats
from ..errors import CkptSurgeonError, files
from ..formats import locating
from ..verbs import looking
from .folder import Folder, existing
from .journal import Content, Journal, not_initialised
from .predicting.predictors import predictors
from .predicting.voting import Task, duplicate, voter
from .reporting import status
from .rows import Rows, impurity, open_rows
from .schedule import step_seed
from .spec import fixed, loading
from .spec.records import Model, Spec
from .trainers import engines
from .trainers.attempts import Signature, StepResult, attempt
from .trainers.stopping import stop, wait_for
from .trainers.trainer import Request, Trainer

_PATIENCE = 5.0  # seconds for a worker to exit at the end of its input
_GRACE = 2.0  # seconds for any trainer to die of SIGTERM
_WORKING = 0.3  # seconds that a command has worked when SIGTERM comes

_Digests = Mapping[str, str]


@dataclass(frozen=True)
class TrainerCheck:
    """The result of one check of a trainer.

    Attributes:
        model: the name of the model.
        check: the name of the check.
        ok: whether the trainer passed.
        reason: why it failed; None if it passed.
    """

    model: str
    check: str
    ok: bool
    reason: str | None


@dataclass(frozen=True)
class _Scratch(Folder):
    """The folder of a run, in which programs start, with a scratch folder for everything that is written."""

    scratch: str = ""

    @property
    def batch(self) -> str:
        """The rows of the mini-batch; always under the same name, as in a run."""
        return os.path.join(self.scratch, "batch.npz")

    def model(self, name: str) -> str:
        """Return the folder of a model."""
        return os.path.join(self.scratch, name)

    def checkpoint(self, name: str, step: int) -> str:
        """Return the checkpoint that `step` writes for a model."""
        return os.path.join(self.scratch, self.relative(name, step))

    def log(self, name: str) -> str:
        """Return the path of the log of a model's trainer."""
        return os.path.join(self.scratch, name, "trainer.log")

    def metrics(self, name: str) -> str:
        """Return the path where a command may leave the metrics of its step."""
        return os.path.join(self.scratch, name, "metrics.json")


def check(path: str) -> Iterator[TrainerCheck]:
    """Check the trainers of a run, starting from the latest checkpoint of each model.

    Args:
        path: the folder of the run; no driver may be running.

    Yields:
        The results, model by model; the run does not change.

    Raises:
        BusyError: a driver runs.
        CkptSurgeonError: the run cannot be read.
    """
    folder = existing(path)
    spec = loading.load(folder.spec)
    if not os.path.exists(folder.journal):
        raise not_initialised(folder.root)
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal.lock(folder.journal, lambda: status.driver(folder)))
        content = journal.read()
        if content is None:
            raise not_initialised(folder.root)
        fixed.check_spec(folder, spec, content.history)
        folder = folder.storing(spec.suffixes)
        table = folder.open_table() if spec.data is not None else None
        rows = open_rows(folder, spec, table)
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptsurgeon-"))
        scratch = _Scratch(**{field.name: getattr(folder, field.name) for field in fields(folder)}, scratch=temporary)
        trainers = engines.trainers(spec, scratch, table, [journal.fd])
        if rows is not None:
            stack.callback(rows.close)
        if spec.data is not None and spec.data.source is not None:
            reason = impurity(folder, spec)
            yield TrainerCheck("data", "source", reason is None, reason)
        for model in [each for each in spec.models if each.name in content.history.models]:
            os.mkdir(scratch.model(model.name))
            yield from _Trial(spec, model, scratch, content, table, rows, trainers[model.name]).findings()
            shutil.rmtree(scratch.model(model.name))


class _Trial:
    """Checks one trainer.

    Args:
        spec: of the run.
        model: the trainer's.
        folder: the run, with a folder for scratch.
        content: the run's journal.
        table: its rows.
        rows: its mini-batches.
        trainer: not yet started.
    """

    def __init__(
        self,
        spec: Spec,
        model: Model,
        folder: _Scratch,
        content: Content,
        table: data.Table | None,
        rows: Rows | None,
        trainer: Trainer,
    ) -> None:
        history = self._history = content.history
        self._spec = spec
        self._model = replace(model, tries=1)
        self._folder = folder
        self._step = history.step + 1
        self._batch = history.round
        self._table = table
        self._rows = rows
        self._trainer = trainer
        self._initial = history.initial[model.name]
        self._present = Folder.checkpoint(folder, model.name, history.latest(model.name))
        self._source = duplicate(self._present, folder.model(model.name), link=False)
        with formats.open(self._source) as checkpoint:
            self._like: Signature = {v.name: (v.dtype, v.shape) for v in checkpoint.variables.values()}
        self._output = folder.checkpoint(model.name, self._step)
        self._kept = ""
        self._touched: str | None = None

    def findings(self) -> Iterator[TrainerCheck]:
        """Run all checks."""
        try:
            finding = self._try("train", self._trains)
            yield finding
            if not finding.ok:
                return
            yield self._try("reads", self._reads)
            yield self._try("repeat", self._repeats)
            yield self._try("input", lambda: self._touched)
            if self._model.init is None:
                yield self._try("init", self._inits)
            if self._trainer.stays_running:
                yield self._try("end", self._ends)
            stop([self._trainer], 0.0, _GRACE)
            yield self._try("restart", self._repeats)
            yield self._try("sigterm", self._dies)
            stop([self._trainer], 0.0, _GRACE)
            if (self._model.predict or self._model.trainer) is not None and self._table is not None:
                yield self._try("predict", self._predicts)
        finally:
            stop([self._trainer], 0.0, _GRACE)

    def _try(self, check: str, attempt: Callable[[], str | None]) -> TrainerCheck:
        """Run one check, which returns or raises the reason for a failure."""
        try:
            reason = attempt()
        except CkptSurgeonError as error:
            error.path = None  # the log is gone by the time the reason is read
            reason = str(error)
        return TrainerCheck(self._model.name, check, reason is None, reason)

    def _trains(self) -> None:
        self._train(self._source)
        kept = os.path.join(self._folder.model(self._model.name), "kept")
        os.mkdir(kept)
        self._kept = duplicate(self._output, kept, link=False)

    def _reads(self) -> str | None:
        later = self._folder.checkpoint(self._model.name, self._step + 1)
        self._train(self._output, later)
        self._train(later)
        if _digests(self._output) == _digests(self._kept):
            return "wrote the same weights for another checkpoint: it ignores the checkpoint that it is given"
        return None

    def _repeats(self) -> str | None:
        self._train(self._source)
        return self._difference(self._kept)

    def _inits(self) -> str | None:
        if self._init(self._spec.seed) != self._initial:
            return "wrote initial weights that differ from those at 'ring init', for the same request"
        if self._init(self._spec.seed + 1) == self._initial:
            return "wrote the same initial weights for another seed"
        return None

    def _ends(self) -> str | None:
        self._trainer.open()
        self._trainer.end_input()
        ended = wait_for([self._trainer], _PATIENCE)
        return None if ended else f"was still running {_PATIENCE:g} s after the end of its input"

    def _dies(self) -> str | None:
        if self._trainer.stays_running:
            self._trainer.open()
        else:
            self._trainer.start(self._request(self._source, self._output))
            time.sleep(_WORKING)
        self._trainer.terminate()
        ended = wait_for([self._trainer], _GRACE)
        return None if ended else f"was still running {_GRACE:g} s after SIGTERM"

    def _predicts(self) -> None:
        assert self._table is not None
        asked = predictors(self._spec, {self._model.name: self._trainer}).get(self._model.name)
        with voter(self._model, self._folder, self._source, Task.of(self._table), asked) as vote:
            batch = data.load_npz(self._folder.batch)
            vote.outputs(batch["X"][:100])

    def _train(self, checkpoint: str, output: str | None = None) -> None:
        """Train the same step from a checkpoint, or the next step, on another batch, if `output` is given."""
        request = self._request(checkpoint, output or self._output, int(output is not None))
        given = [*locating.files_of(locating.locate(checkpoint)), *([request.data] if request.data is not None else [])]
        before = {path: _digest(path) for path in given}
        self._do(request)
        changed = [
            os.path.basename(path) for path in given if not os.path.exists(path) or _digest(path) != before[path]
        ]
        if changed:
            self._touched = f"changed {', '.join(changed)}, which it must only read"
            duplicate(self._present, self._folder.model(self._model.name), link=False)

    def _init(self, seed: int) -> str:
        """Have initial weights made; return their fingerprint."""
        request = self._request(None, self._output)
        return self._do(replace(request, seed=step_seed(seed, self._model.name, 0))).sha256

    def _do(self, request: Request) -> StepResult:
        """Send a request to the trainer and check the result; TrainerError if that is invalid."""
        formats.remove(request.output)
        return attempt(self._trainer, request, self._model, self._folder, self._like, lambda line: None)

    def _request(self, checkpoint: str | None, output: str, ahead: int = 0) -> Request:
        """Return the request that the run would make `ahead` steps later; for initial weights if checkpoint is None."""
        step, batch = (self._step + ahead, self._batch + ahead) if checkpoint is not None else (0, 0)
        if self._rows is not None:
            self._rows.write(batch, self._folder.batch)
        return Request(
            op="init" if checkpoint is None else "train",
            step=step,
            round=0 if checkpoint is None else batch + 1,
            batch=batch,
            seed=step_seed(self._spec.seed, self._model.name, step),
            checkpoint=checkpoint,
            output=output,
            data=None if self._table is None else self._folder.batch,
            learning_rate=self._history.learning_rate(self._model.name, batch + 1),
        )

    def _difference(self, expected: str) -> str | None:
        """Describe how the output differs from what is expected; None if it does not."""
        if _digests(self._output) == _digests(expected):
            return None
        rows = looking.diff(expected, self._output, exact=True)
        names = [row.name for row in rows if row.status != "same"]
        if not names:
            return "wrote the same values but different bytes: the format may store a time, as .keras does"
        some = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        return f"wrote different bytes for the same request: {some} differ"


def _digests(checkpoint: str) -> _Digests:
    """Return the digest of each file of a checkpoint, by what its name adds to the checkpoint's."""
    return {path[len(checkpoint) :]: _digest(path) for path in locating.files_of(locating.locate(checkpoint))}


def _digest(path: str) -> str:
    with files(path), open(path, "rb") as file:
        digest = sha256()
        while part := file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
