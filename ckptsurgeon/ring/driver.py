"""The loop of a run: ask the schedule for a step, have it done, publish its checkpoint, journal it.

Nothing is replaced in place: every step writes a new checkpoint, and only the journal makes it part of history. So
the driver may die at any point: whatever is not in the journal is done again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from .. import formats
from ..errors import CkptSurgeonError, TrainerError
from . import retention
from .folder import Folder, existing
from .history import History
from .journal import Journal, not_initialised
from .lines import Measured, Record
from .predicting.predictors import predictors
from .reporting import status
from .reporting.events import Events
from .resuming import resume
from .rows import check_same, open_rows
from .schedule import TRUNK, Done, Part, Step, may_end, next_step, step_seed
from .spec import loading
from .spec.records import Spec, Stop
from .trainers import engines
from .trainers.attempts import Signature, StepResult, attempt
from .trainers.stopping import stop
from .trainers.trainer import Request
from .weights.measuring import Meter
from .weights.trunk import Trunk

# Seconds that trainers may take to exit after a run, and after SIGTERM. An interrupted driver ends in under a second.
_PATIENCE = 5.0
_GRACE = 0.3


def run(
    path: str,
    *,
    rounds: int | None = None,
    tolerance: float | None = None,
    anyway: bool = False,
    adopt: bool = True,
    warn: Callable[[str], None] = lambda line: None,
    on_round: Callable[[History], None] = lambda history: None,
) -> Done:
    """Drive a run until it is done.

    Args:
        path: the folder of the run.
        rounds: stop after this number of rounds, regardless of the limits in ring.toml.
        tolerance: stop at this tolerance, regardless of those limits; with both, at whichever comes first.
        anyway: continue in another environment.
        adopt: continue from checkpoints that were edited since the run stopped.
        warn: is called with lines for the user, such as a failed try or lost rounds.
        on_round: is called after each round, while the next one begins.

    Raises:
        BusyError: another driver runs.
        TrainerError: a trainer failed too often; the run can be resumed.
        CkptSurgeonError: anything else that went wrong; the run can be resumed.
    """
    folder = existing(path)
    spec = loading.load(folder.spec)
    if not os.path.exists(folder.journal):
        raise not_initialised(folder.root)
    folder = folder.storing(spec.suffixes)
    with Journal.lock(folder.journal, lambda: status.driver(folder)) as journal:
        history = resume.resume(folder, spec, journal, anyway, warn, adopt)
        return Driver(folder, spec, journal, history, warn, on_round, spec.stop.until(rounds, tolerance)).run()


class Driver:
    """Drives one run.

    Args:
        folder: the run, in the state that `resume` leaves it in.
        spec: what to train.
        journal: the locked journal.
        history: the steps done so far.
        warn: is called with lines for the user.
        on_round: is called after each round.
        stop: when to stop. What is measured follows from `spec` alone, so that it is the same in all runs.
    """

    def __init__(
        self,
        folder: Folder,
        spec: Spec,
        journal: Journal,
        history: History,
        warn: Callable[[str], None],
        on_round: Callable[[History], None],
        stop: Stop,
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._journal = journal
        self._history = history
        self._warn = warn
        self._on_round = on_round
        self._stop = stop
        self._started: set[int] = set()  # train steps that have already been handed to their trainers
        self._table = None if spec.data is None else folder.open_table()
        self._rows = open_rows(folder, spec, self._table)
        self._batch: int | None = None  # the one in batch.npz
        self._models = {model.name: model for model in spec.models}
        self._trainers = engines.trainers(spec, folder, self._table, [journal.fd])
        self._shown_pids: dict[str, int | None] = {}  # the trainers' processes, as status.json has them
        self._signatures: dict[str, Signature] = {}
        self._events, self._round_began = Events(folder.events, history, warn), time.monotonic()
        self._enter(history.schedule.part(history.round + 1))

    def _enter(self, part: Part) -> None:
        """Get ready for rounds in which these models share these layers."""
        folder, history, spec = self._folder, self._history, self._spec.during(part)
        self._part, self._names = part, part.models
        self._trunk = Trunk(spec, {name: folder.checkpoint(name, history.latest(name)) for name in part.models})
        asked, schedule = predictors(spec, self._trainers), history.schedule
        round = None if history.measures_anew else history.round
        self._meter = Meter(folder, spec, self._trunk, schedule, self._table, round, self._warn, asked)

    def run(self) -> Done:
        """Do steps until the schedule says that the run is done."""
        patience, state, reason = 0.0, "failed", None
        try:
            step = self._next()
            if isinstance(step, Step):
                self._open_trainers()
                check_same(self._folder, self._rows)
            while isinstance(step, Step):
                self._do(step)
                step = self._next()
            patience, state, reason = _PATIENCE, step.reason, str(step)
            return step
        except KeyboardInterrupt:
            state, reason = "stopped", "interrupted"
            raise
        except BrokenPipeError:  # from `on_round`: the reader of the output is gone
            state, reason = "stopped", "its output was closed"
            raise
        except CkptSurgeonError as error:
            reason = "; ".join(error.lines)
            raise
        except Exception as error:
            reason = repr(error)
            raise
        finally:
            stop(list(self._trainers.values()), patience, _GRACE)
            self._events.close()
            if self._rows is not None:
                self._rows.close()
            with contextlib.suppress(CkptSurgeonError):  # a full disk must not hide what happened
                for name in self._history.schedule.writers:
                    self._tidy(name)
                status.write(self._folder, state, reason, {})

    def _next(self) -> Step | Done:
        resting = all(map(self._rests, self._history.models))
        return next_step(self._history.schedule, self._stop, self._history, resting)

    def _rests(self, model: str) -> bool:
        """Return whether a model does not train, because its own held-out loss has stopped falling."""
        patience = self._models[model].patience
        return patience is not None and self._history.idle[model] >= patience

    def _open_trainers(self) -> None:
        """Start all workers at once, since each may take seconds to start."""
        for trainer in self._trainers.values():
            with contextlib.suppress(TrainerError):  # the first step starts it again and reports the error
                trainer.open()
        self._update_status()

    def _update_status(self) -> None:
        pids = {name: trainer.pid for name, trainer in self._trainers.items()}
        if pids != self._shown_pids:
            status.write(self._folder, "running", None, pids)
            self._shown_pids = pids

    def _do(self, step: Step) -> None:
        """Do one step: publish its checkpoint, then journal it."""
        history, spec, folder = self._history, self._spec, self._folder
        part, began = history.schedule.part(step.round), time.monotonic()
        if part is not self._part:
            self._enter(part)
        source: str | list[str]
        if step.kind == "train":
            source = folder.relative(step.model, history.latest(step.model))
            result = self._train(step)
        elif step.kind == "average":
            source = [folder.relative(name, history.latest(name)) for name in self._names]
            result = self._average(step)
        else:
            assert step.donor is not None
            number = history.whole(step.donor) if step.kind == "freeze" else history.latest(step.donor)
            source = folder.relative(step.donor, number)
            result = self._graft(step, step.donor, number)
        measured = Measured()
        failure: CkptSurgeonError | None = None
        if step.last:
            if not may_end(step, self._stop) and not self._meter.asks(step):
                failure = self._start_next(step)  # trainers work while the round is measured, synced and journalled
            latest = {name: history.latest(name) for name in self._names} | {step.model: step.number}
            measured = self._meter.end_round(step, latest)
        every_step = spec.durability == "step"
        if every_step:
            formats.sync(folder.checkpoint(step.model, step.number))
        seconds, output = time.monotonic() - began, folder.relative(step.model, step.number)
        record = Record(step, source, output, result.sha256, result.metrics, measured, seconds)
        self._journal.append(record, sync=step.last or every_step)
        history.add(record)
        if step.last:
            retention.update_state_files(folder, history, spec.max_to_keep)
            self._on_round(history)
            now = time.monotonic()
            self._events.round(history, now - self._round_began)
            self._round_began = now
        if failure is not None:
            raise failure

    def _tidy(self, model: str) -> None:
        retention.tidy(self._folder, self._history, model, self._spec.max_to_keep)

    def _start_next(self, step: Step) -> CkptSurgeonError | None:
        """Hand the first steps of the next round to their trainers. What they write counts only once journalled.

        Returns:
            Why the next round has no rows, which must not cost the step that is about to be journalled.
        """
        for number in self._history.schedule.together(step.number + 1):
            following = self._history.schedule.step(number)
            source = step.number if following.model == step.model else self._history.latest(following.model)
            try:
                self._start(following, source)
            except CkptSurgeonError as error:
                return error
        return None

    def _start(self, step: Step, source: int) -> None:
        """Hand a train step to its trainer, unless that has been done."""
        if step.number not in self._started and not self._rests(step.model):
            request = self._request(step, source)
            with contextlib.suppress(TrainerError):  # `attempt` starts it again and reports the error
                self._trainers[step.model].start(request)
                self._started.add(step.number)

    def _request(self, step: Step, source: int) -> Request:
        name, folder = step.model, self._folder
        return Request(
            op="train",
            step=step.number,
            round=step.round,
            batch=step.batch,
            seed=step_seed(self._spec.seed, name, step.number),
            checkpoint=folder.checkpoint(name, source),
            output=folder.checkpoint(name, step.number),
            data=self._write_batch(step.batch),
            learning_rate=self._history.learning_rate(name, step.round),
        )

    def _train(self, step: Step) -> StepResult:
        name = step.model
        if name not in self._signatures:
            with formats.open(self._folder.checkpoint(name, self._history.latest(name))) as checkpoint:
                variables = checkpoint.variables.values()
                self._signatures[name] = {v.name: (v.dtype, v.shape) for v in variables}
        for number in self._history.schedule.together(step.number):
            following = self._history.schedule.step(number)
            self._start(following, self._history.latest(following.model))
        self._tidy(name)  # while the trainer works
        if self._rests(name):
            output = self._folder.checkpoint(name, step.number)
            retention.carry(self._folder.checkpoint(name, self._history.latest(name)), output)
            return StepResult({}, retention.fingerprint(output), {})
        request = self._request(step, self._history.latest(name))
        started = step.number in self._started
        self._started.discard(step.number)
        like, model = self._signatures[name], self._models[name]
        result = attempt(self._trainers[name], request, model, self._folder, like, self._warn, started)
        self._update_status()
        return result

    def _graft(self, step: Step, donor: str, number: int) -> StepResult:
        """Write a new checkpoint of the model that holds the trunk which step `number` wrote for the donor."""
        history, folder = self._history, self._folder
        output = folder.checkpoint(step.model, step.number)
        source = folder.checkpoint(donor, number)
        self._trunk.graft(donor, source, step.model, folder.checkpoint(step.model, history.latest(step.model)), output)
        return StepResult({}, retention.fingerprint(output), {})

    def _average(self, step: Step) -> StepResult:
        """Write the mean of all models' trunks."""
        output = self._folder.checkpoint(TRUNK, step.number)
        latest = {name: self._history.latest(name) for name in self._names}
        self._trunk.average({name: self._folder.checkpoint(name, number) for name, number in latest.items()}, output)
        self._tidy(TRUNK)
        return StepResult({}, retention.fingerprint(output), {})

    def _write_batch(self, batch: int) -> str | None:
        if self._rows is None:
            return None
        if self._batch != batch:
            self._rows.write(batch, self._folder.batch)
            self._batch = batch
        return self._folder.batch
