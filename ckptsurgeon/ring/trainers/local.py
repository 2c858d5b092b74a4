"""The local engine: trainers as child processes of the driver, on this machine.

On Linux the kernel kills a trainer when its driver dies; elsewhere a worker exits at the end of its input. A trainer
inherits the descriptor that locks the run, so that no second driver starts while it is still running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...data import Table
from ...errors import TrainerError
from ..folder import Folder
from ..spec.records import Model, Spec
from . import builtin, devices
from .log import Log, excerpt, how_it_ended
from .messages import command_arguments, json_object, metrics_of_answer, request_line
from .program import RunningProgram
from .trainer import Request, Trainer


class _ProgramTrainer:
    """The common part of both kinds of trainer: a program, its log, and its process while it runs.

    Args:
        model: its name and its limits.
        arguments: the program and its arguments.
        folder: the run.
        inherited: descriptors that the process keeps open.
        environment: variables to set in addition to the driver's own.

    Attributes:
        process: the running program; None between `kill` and the next start.
    """

    def __init__(
        self,
        model: Model,
        arguments: Sequence[str],
        folder: Folder,
        inherited: Iterable[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self._arguments = arguments
        self._timeout = model.timeout
        self._memory = model.memory
        self._folder = folder
        self._inherited = tuple(inherited)
        self._log = Log(folder.log(model.name))
        self._deadline = 0.0
        self.process: RunningProgram | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self.process.pid if self.process is not None else None

    def last_words(self) -> str:
        """Return the last lines of the log since the program was started."""
        return self._log.last_words()

    def end_input(self) -> None:
        """Close the program's standard input."""
        if self.process is not None:
            self.process.end_input()

    def terminate(self) -> None:
        """Send SIGTERM to the program and its descendants."""
        if self.process is not None:
            self.process.terminate()

    def ended(self) -> bool:
        """Return whether no program is running."""
        return self.process is None or self.process.ended()

    def kill(self) -> None:
        """Kill the program and its descendants."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()


class WorkerTrainer(_ProgramTrainer):
    """A trainer that is kept running: one JSON line in, one out.

    Args:
        model: its name and its limits.
        arguments: the program and its arguments.
        folder: the run.
        inherited: descriptors that the process keeps open.
        environment: variables to set in addition to the driver's own.
    """

    stays_running = True
    _step = 0
    _answered = False

    def open(self) -> None:
        """Start the program."""
        if self.process is None:
            self._log.mark()
            self._answered = False
            self.process = RunningProgram(
                self._arguments,
                self._folder.root,
                self._log.path,
                self._inherited,
                talk=True,
                environment=self._environment,
                memory=self._memory,
            )

    def start(self, request: Request) -> None:
        """Write the request's line."""
        if self._answered:
            self._log.mark()
        self.open()
        assert self.process is not None
        self._deadline = time.monotonic() + self._timeout
        self._step = request.step
        self.process.send(request_line(request))

    def finish(self) -> dict[str, Any]:
        """Read lines until the answer comes; those that do not begin with `{` are talk for the log."""
        process = self.process
        assert process is not None
        try:
            while (line := process.line(self._deadline)) is not None:
                if line.startswith(b"{"):
                    metrics = metrics_of_answer(line, self._step)
                    self._answered = True
                    return metrics
                process.log(line)
            status = process.wait(self._deadline)
        except TimeoutError:
            raise TrainerError(f"did not answer within {self._timeout:g} s") from None
        raise TrainerError(how_it_ended(status))


class CommandTrainer(_ProgramTrainer):
    """A trainer that is started once for each step.

    Args:
        model: its name, program and limits.
        folder: the run.
        inherited: descriptors that the process keeps open.
        environment: variables to set in addition to the driver's own.
    """

    stays_running = False

    def __init__(
        self, model: Model, folder: Folder, inherited: Iterable[int], environment: Mapping[str, str] | None = None
    ) -> None:
        assert model.command is not None
        super().__init__(model, model.command, folder, inherited, environment)
        self._metrics = folder.metrics(model.name)

    def open(self) -> None:
        """Nothing is kept running."""

    def start(self, request: Request) -> None:
        """Start the program, with the placeholders in its arguments replaced."""
        self._log.mark()
        if any("{metrics}" in argument for argument in self._arguments) and os.path.lexists(self._metrics):
            os.unlink(self._metrics)
        arguments = command_arguments(self._arguments, request, self._metrics)
        self._deadline = time.monotonic() + self._timeout
        self.process = RunningProgram(
            arguments,
            self._folder.root,
            self._log.path,
            self._inherited,
            environment=self._environment,
            memory=self._memory,
        )

    def finish(self) -> dict[str, Any]:
        """Wait for the program to end; its output goes to the log, and its last JSON object is the metrics."""
        process = self.process
        assert process is not None
        last: dict[str, Any] = {}
        wrong: TrainerError | None = None  # what the last object would be refused for, if it is the metrics
        try:
            while (line := process.line(self._deadline)) is not None:
                process.log(line)
                try:
                    found = json_object(line) if line.startswith(b"{") else None
                except TrainerError as error:
                    found, wrong = None, error
                if found:
                    last, wrong = found, None
            status = process.wait(self._deadline)
        except TimeoutError:
            raise TrainerError(f"did not end within {self._timeout:g} s") from None
        self.kill()
        if status:
            raise TrainerError(how_it_ended(status))
        metrics = self._written_metrics()
        if metrics is None and wrong:
            raise wrong
        return last if metrics is None else metrics

    def _written_metrics(self) -> dict[str, Any] | None:
        if not any("{metrics}" in argument for argument in self._arguments):
            return None
        try:
            with open(self._metrics, "rb") as file:
                content = file.read(1 << 20)
        except FileNotFoundError:
            return None
        metrics = json_object(content)
        if metrics is None:
            raise TrainerError("wrote metrics that are not a JSON object", found=excerpt(content))
        return metrics


def trainers(spec: Spec, folder: Folder, table: Table | None, inherited: Iterable[int]) -> Mapping[str, Trainer]:
    """Return a trainer for each model; see `engines.trainers`."""
    made: dict[str, Trainer] = {}
    for model in spec.models:
        environment = devices.environment(spec, model)
        if model.command is not None:
            made[model.name] = CommandTrainer(model, folder, inherited, environment)
        elif model.worker is not None:
            made[model.name] = WorkerTrainer(model, model.worker, folder, inherited, environment)
        else:
            assert table is not None
            if model.trainer is not None:
                program = builtin.function_arguments(spec, model, folder, table)
            else:
                program = builtin.arguments(model, table)
            environment |= builtin.environment()
            made[model.name] = WorkerTrainer(model, program, folder, inherited, environment)
    return made
