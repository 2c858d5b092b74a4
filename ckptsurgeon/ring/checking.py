"""Does a trainer do what a ring asks of it? It is tried, on copies: nothing of the run changes.

What is tried, in this order; a trainer that fails the first is asked nothing more:

train     it answers for the step that it was asked for, and writes a sound, finite checkpoint with the names, shapes
          and dtypes that it was given
reads     it goes on from the checkpoint: the same request with another one gives other weights
repeat    the same request gives the same bytes, with other steps between: no weights are kept in memory
input     the checkpoint and the rows that it is given are left as they were
init      first weights depend on the seed, and on nothing else (trainers that are asked for them)
end       at the end of its input it exits within 5 seconds (workers)
restart   a new process gives the same bytes again: nothing is left to chance
sigterm   it dies of SIGTERM
predict   its `predict` program says something of rows (models that have one)
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
from . import resume
from .folder import Folder, existing
from .journal import Content, Journal, not_initialised
from .predicting.voting import Task, duplicate, voter
from .reporting import status
from .schedule import step_seed
from .spec import loading
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
    """What was found out about one trainer.

    Attributes:
        model: whose trainer it is.
        check: what was tried.
        ok: whether it is as it should be.
        reason: what is wrong; None if nothing is.
    """

    model: str
    check: str
    ok: bool
    reason: str | None


@dataclass(frozen=True)
class _Scratch(Folder):
    """A run's folder, where programs start, of which nothing but a folder for scratch is written to."""

    scratch: str = ""

    @property
    def batch(self) -> str:
        """The rows of the present mini-batch; as in a run always under the same name."""
        return os.path.join(self.scratch, "batch.npz")

    def model(self, name: str) -> str:
        """Return the folder of a model."""
        return os.path.join(self.scratch, name)

    def checkpoint(self, name: str, step: int) -> str:
        """Return the checkpoint that `step` writes for a model."""
        return os.path.join(self.scratch, self.relative(name, step))

    def log(self, name: str) -> str:
        """Return the path of what a model's trainer said."""
        return os.path.join(self.scratch, name, "trainer.log")

    def metrics(self, name: str) -> str:
        """Return the path where a command may leave the metrics of its step."""
        return os.path.join(self.scratch, name, "metrics.json")


def check(path: str) -> Iterator[TrainerCheck]:
    """Try the trainers of a run, from the present checkpoint of each model.

    Args:
        path: the folder of the run, which no driver may drive meanwhile.

    Yields:
        The findings, model by model; the run stays as it is.

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
        resume.check_spec(folder, spec, content.head)
        folder = folder.storing(spec.suffixes)
        table = folder.open_table() if spec.data is not None else None
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptsurgeon-"))
        scratch = _Scratch(**{field.name: getattr(folder, field.name) for field in fields(folder)}, scratch=temporary)
        trainers = engines.trainers(spec, scratch, table, [journal.fd])
        for model in spec.models:
            os.mkdir(scratch.model(model.name))
            yield from _Trial(spec, model, scratch, content, table, trainers[model.name]).findings()
            shutil.rmtree(scratch.model(model.name))


class _Trial:
    """Tries one trainer.

    Args:
        spec: of the run.
        model: the trainer's.
        folder: the run, with a folder for scratch.
        content: the run's journal.
        table: its rows.
        trainer: not yet started.
    """

    def __init__(
        self,
        spec: Spec,
        model: Model,
        folder: _Scratch,
        content: Content,
        table: data.Table | None,
        trainer: Trainer,
    ) -> None:
        history = content.history
        self._spec = spec
        self._model = replace(model, tries=1)
        self._folder = folder
        self._step = history.step + 1
        self._batch = history.round
        self._table = table
        self._trainer = trainer
        self._initial = content.head.initial[model.name]
        self._present = Folder.checkpoint(folder, model.name, history.latest(model.name))
        self._source = duplicate(self._present, folder.model(model.name), link=False)
        with formats.open(self._source) as checkpoint:
            self._like: Signature = {v.name: (v.dtype, v.shape) for v in checkpoint.variables.values()}
        self._output = folder.checkpoint(model.name, self._step)
        self._kept = ""
        self._touched: str | None = None

    def findings(self) -> Iterator[TrainerCheck]:
        """Try everything."""
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
            if self._model.predict is not None and self._table is not None:
                yield self._try("predict", self._predicts)
        finally:
            stop([self._trainer], 0.0, _GRACE)

    def _try(self, check: str, attempt: Callable[[], str | None]) -> TrainerCheck:
        """Do something that returns what is wrong, or raises it."""
        try:
            reason = attempt()
        except CkptSurgeonError as error:
            error.path = None  # of a log that is gone when the reason is read
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
            return "wrote the same from another checkpoint: it does not go on from the one that it is given"
        return None

    def _repeats(self) -> str | None:
        self._train(self._source)
        return self._difference(self._kept)

    def _inits(self) -> str | None:
        if self._init(self._spec.seed) != self._initial:
            return "wrote other first weights than at 'ring init', for the same request"
        if self._init(self._spec.seed + 1) == self._initial:
            return "wrote the same first weights for another seed"
        return None

    def _ends(self) -> str | None:
        self._trainer.open()
        self._trainer.end_input()
        ended = wait_for([self._trainer], _PATIENCE)
        return None if ended else f"still ran {_PATIENCE:g} s after the end of its input"

    def _dies(self) -> str | None:
        if self._trainer.stays_running:
            self._trainer.open()
        else:
            self._trainer.start(self._request(self._source, self._output))
            time.sleep(_WORKING)
        self._trainer.terminate()
        ended = wait_for([self._trainer], _GRACE)
        return None if ended else f"still ran {_GRACE:g} s after SIGTERM"

    def _predicts(self) -> None:
        assert self._table is not None
        with voter(self._model, self._folder, self._source, Task.of(self._table)) as vote:
            vote.outputs(self._table.X[:100])

    def _train(self, checkpoint: str, output: str | None = None) -> None:
        """Have the same step done from a checkpoint, or the one after it, on another batch, if it has an output."""
        request = self._request(checkpoint, output or self._output, int(output is not None))
        given = [*locating.files_of(locating.locate(checkpoint)), *([request.data] if request.data is not None else [])]
        before = {path: _digest(path) for path in given}
        self._do(request)
        changed = [
            os.path.basename(path) for path in given if not os.path.exists(path) or _digest(path) != before[path]
        ]
        if changed:
            self._touched = f"changed {', '.join(changed)}, which it was given to read"
            duplicate(self._present, self._folder.model(self._model.name), link=False)

    def _init(self, seed: int) -> str:
        """Have first weights made; return their fingerprint."""
        request = self._request(None, self._output)
        return self._do(replace(request, seed=step_seed(seed, self._model.name, 0))).sha256

    def _do(self, request: Request) -> StepResult:
        """Have a request done, and look at what was written; TrainerError where that is not as it should be."""
        formats.remove(request.output)
        return attempt(self._trainer, request, self._model, self._folder, self._like, lambda line: None)

    def _request(self, checkpoint: str | None, output: str, ahead: int = 0) -> Request:
        """Return a request as the run would make it, now or `ahead`; for first weights if there is no checkpoint."""
        step, batch = (self._step + ahead, self._batch + ahead) if checkpoint is not None else (0, 0)
        if self._table is not None and self._spec.data is not None:
            rows = self._spec.data
            batches = data.Batches(len(self._table.X), rows.batch_size, self._spec.seed, rows.holdout)
            part = self._table.take(batches.rows(batch))
            data.write_batch(self._folder.batch, part.X, part.y)
        return Request(
            op="init" if checkpoint is None else "train",
            step=step,
            round=0 if checkpoint is None else batch + 1,
            batch=batch,
            seed=step_seed(self._spec.seed, self._model.name, step),
            checkpoint=checkpoint,
            output=output,
            data=None if self._table is None else self._folder.batch,
        )

    def _difference(self, expected: str) -> str | None:
        """Return how the output differs from what it should be, in words."""
        if _digests(self._output) == _digests(expected):
            return None
        rows = looking.diff(expected, self._output, exact=True)
        names = [row.name for row in rows if row.status != "same"]
        if not names:
            return "wrote the same values, but other bytes: the format may hold a time, as .keras does"
        some = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        return f"wrote other bytes for the same request: {some} differ"


def _digests(checkpoint: str) -> _Digests:
    """Return the digest of each file of a checkpoint, by what its name adds to the checkpoint's."""
    return {path[len(checkpoint) :]: _digest(path) for path in locating.files_of(locating.locate(checkpoint))}


def _digest(path: str) -> str:
    with files(path), open(path, "rb") as file:
        digest = sha256()
        while part := file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
