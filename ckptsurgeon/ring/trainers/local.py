"""Trainers as child processes of this machine, by the trainer's contract.

A trainer takes a `Request` and answers with metrics: `start` hands the request over, `finish` waits for the
answer, so that several can work at once. Another engine is another module with the same `Trainer`.

A trainer dies with its driver: on Linux the kernel kills it, elsewhere a worker ends at the end of its input. It
inherits the descriptor that locks the run, so that no second driver starts before it is dead.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ...data import Table
from ...errors import TrainerError
from ..folder import Folder
from ..spec.spec import PLACEHOLDERS, Model, Spec
from .log import Log, excerpt, how_it_ended
from .program import Child, end

_GRACE = 2.0  # seconds between asking a trainer that took too long to end, and killing it
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(sorted(PLACEHOLDERS))})\}}")


@dataclass(frozen=True)
class Request:
    """What a trainer is asked for. All paths are absolute.

    Attributes:
        op: 'train', or 'init' for first weights.
        step: the step of the schedule; 0 for 'init'.
        round: its round; 0 for 'init'.
        batch: the mini-batch.
        seed: all that is random in the step must come from it.
        checkpoint: the weights to start from; None for 'init'.
        output: where the new checkpoint goes.
        data: the .npz of the mini-batch, or None.
    """

    op: str
    step: int
    round: int
    batch: int
    seed: int
    checkpoint: str | None
    output: str
    data: str | None


class Trainer(Protocol):
    """What the driver knows of the trainer of one model."""

    @property
    def pid(self) -> int | None:
        """The process that is kept running between steps, if there is one."""

    def open(self) -> None:
        """Get ready, without waiting for it; `start` does it where it was not done."""

    def start(self, request: Request) -> None:
        """Hand over a request; raises TrainerError."""

    def finish(self) -> dict[str, Any]:
        """Wait for the answer to the last request and return its metrics; raises TrainerError."""

    def last_words(self) -> str:
        """Return the end of what the trainer said since the last `start`, as one line; empty if nothing."""

    def reset(self) -> None:
        """End whatever runs for this model, at once, so that the next `start` begins afresh."""


class _Program:
    """What both kinds of trainer share: a program, its log, and its process while there is one.

    Args:
        model: its name and timeout.
        arguments: the program and its arguments.
        folder: the run.
        inherited: descriptors that it keeps open.
    """

    def __init__(self, model: Model, arguments: Sequence[str], folder: Folder, inherited: Iterable[int]) -> None:
        self._arguments = arguments
        self._timeout = model.timeout
        self._memory = model.memory
        self._folder = folder
        self._inherited = tuple(inherited)
        self._log = Log(folder.log(model.name))
        self._deadline = 0.0
        self.child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self.child.pid if self.child is not None else None

    def last_words(self) -> str:
        """Return the last lines of the log since the program was started."""
        return self._log.last_words()

    def reset(self) -> None:
        """End the program."""
        if self.child is not None:
            child, self.child = self.child, None
            end([child], 0.0, _GRACE)


class Worker(_Program):
    """A trainer that is kept running: one JSON line in, one out.

    Args:
        model: its name, program and timeout.
        arguments: the program and its arguments.
        folder: the run.
        inherited: descriptors that it keeps open.
        environment: variables that are set for it.
    """

    def __init__(
        self,
        model: Model,
        arguments: Sequence[str],
        folder: Folder,
        inherited: Iterable[int],
        environment: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(model, arguments, folder, inherited)
        self._environment = environment
        self._step = 0
        self._answered = False

    def open(self) -> None:
        """Start the program."""
        if self.child is None:
            self._log.mark()
            self._answered = False
            self.child = Child(
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
        assert self.child is not None
        self._deadline = time.monotonic() + self._timeout
        self._step = request.step
        self.child.send(json.dumps({"v": 1, **asdict(request)}).encode() + b"\n")

    def finish(self) -> dict[str, Any]:
        """Read lines until the answer comes; those that do not begin with `{` are talk for the log."""
        child = self.child
        assert child is not None
        try:
            while (line := child.line(self._deadline)) is not None:
                if line.startswith(b"{"):
                    return self._answer(line)
                child.log(line)
            status = child.wait(self._deadline)
        except TimeoutError:
            raise TrainerError(f"gave no answer within {self._timeout:g} s") from None
        raise TrainerError(how_it_ended(status))

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise TrainerError("gave an answer that is not JSON", found=excerpt(line)) from None
        if answer.get("step") != self._step:
            raise TrainerError("answered another step", expected=self._step, found=answer.get("step"))
        if "error" in answer:
            raise TrainerError(f"said: {excerpt(str(answer['error']).encode(), 300)}")
        if not isinstance(answer.get("metrics"), dict):
            raise TrainerError("gave an answer without metrics", found=excerpt(line))
        self._answered = True
        metrics: dict[str, Any] = answer["metrics"]
        return metrics


class Command(_Program):
    """A trainer that is started once a step.

    Args:
        model: its name, program and timeout.
        folder: the run.
        inherited: descriptors that it keeps open.
    """

    def __init__(self, model: Model, folder: Folder, inherited: Iterable[int]) -> None:
        assert model.command is not None
        super().__init__(model, model.command, folder, inherited)
        self._metrics = folder.metrics(model.name)

    def open(self) -> None:
        """Nothing is kept running."""

    def start(self, request: Request) -> None:
        """Start the program, with the placeholders in its arguments replaced."""
        self._log.mark()
        if any("{metrics}" in argument for argument in self._arguments) and os.path.lexists(self._metrics):
            os.unlink(self._metrics)
        values = {key: "" if value is None else str(value) for key, value in asdict(request).items()}
        values["metrics"] = self._metrics
        arguments = [_PLACEHOLDER.sub(lambda match: values[match[1]], text) for text in self._arguments]
        self._deadline = time.monotonic() + self._timeout
        self.child = Child(arguments, self._folder.root, self._log.path, self._inherited, memory=self._memory)

    def finish(self) -> dict[str, Any]:
        """Wait for the program to end; its output goes to the log, and its last JSON object is the metrics."""
        child = self.child
        assert child is not None
        last: dict[str, Any] = {}
        try:
            while (line := child.line(self._deadline)) is not None:
                child.log(line)
                if line.startswith(b"{"):
                    last = _json_object(line) or last
            status = child.wait(self._deadline)
        except TimeoutError:
            raise TrainerError(f"did not end within {self._timeout:g} s") from None
        child.close()
        self.child = None
        if status:
            raise TrainerError(how_it_ended(status))
        return self._written_metrics(last)

    def _written_metrics(self, last: dict[str, Any]) -> dict[str, Any]:
        if not any("{metrics}" in argument for argument in self._arguments):
            return last
        try:
            with open(self._metrics, "rb") as file:
                content = file.read(1 << 20)
        except FileNotFoundError:
            return last
        metrics = _json_object(content)
        if metrics is None:
            raise TrainerError("wrote metrics that are no JSON object", found=excerpt(content))
        return metrics


def trainers(spec: Spec, folder: Folder, table: Table | None, inherited: Iterable[int]) -> dict[str, Trainer]:
    """Return a trainer for each model; none is started yet.

    Args:
        spec: the run.
        folder: where it lies.
        table: the rows, whose shape the built-in trainer's first weights depend on.
        inherited: descriptors that every trainer keeps open.
    """
    made: dict[str, Trainer] = {}
    for model in spec.models:
        if model.command is not None:
            made[model.name] = Command(model, folder, inherited)
        elif model.worker is not None:
            made[model.name] = Worker(model, model.worker, folder, inherited)
        else:
            assert table is not None
            made[model.name] = Worker(model, _built_in(model, table), folder, inherited, _import_path())
    return made


def stop(trainers: Iterable[Trainer], patience: float, grace: float) -> None:
    """End all trainers together (see `child.end`)."""
    children = []
    for trainer in trainers:
        if isinstance(trainer, Worker | Command) and trainer.child is not None:
            children.append(trainer.child)
            trainer.child = None
    end(children, patience, grace)


def _built_in(model: Model, table: Table) -> list[str]:
    """Return the arguments of the built-in trainer: a program like any other."""
    assert model.hidden_units is not None
    outputs = 1 if table.y.ndim == 1 else table.y.shape[1]
    arguments = {
        "--hidden-units": ",".join(map(str, model.hidden_units)),
        "--features": table.X.shape[1],
        **({"--outputs": outputs} if table.classes is None else {"--classes": len(table.classes)}),
        "--optimizer": model.optimizer,
        "--learning-rate": model.learning_rate,
    }
    program = [sys.executable, "-m", "ckptsurgeon.skflow.worker"]
    return program + [str(part) for pair in arguments.items() for part in pair]


def _import_path() -> list[tuple[str, str]]:
    """Let the built-in trainer import this very package, installed or not, wherever it works."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    before = os.environ.get("PYTHONPATH")
    return [("PYTHONPATH", here if not before else here + os.pathsep + before)]


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
