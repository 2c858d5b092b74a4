"""The interface between a ring and its trainers: requests, and what every engine's trainers can do.

An engine makes the trainers of a run (see `engines`). The driver and everything else in a ring use only the members
of `Trainer`, so that an engine can be added without changing them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .stopping import Stoppable


@dataclass(frozen=True)
class Request:
    """One request to a trainer. All paths are absolute.

    Attributes:
        op: 'train', or 'init' to ask for initial weights.
        step: the number of the step in the schedule; 0 for 'init'.
        round: the round that the step belongs to; 0 for 'init'.
        batch: the number of the mini-batch.
        seed: the source of all randomness in the step.
        checkpoint: the weights to start from; None for 'init'.
        output: where to write the new checkpoint.
        data: the .npz file with the rows of the mini-batch, or None.
        learning_rate: of this step; None: the one that the trainer knows, or that its checkpoint holds.
    """

    op: str
    step: int
    round: int
    batch: int
    seed: int
    checkpoint: str | None
    output: str
    data: str | None
    learning_rate: float | None = None


class Trainer(Stoppable, Protocol):
    """The trainer of one model, on any engine.

    Lifetime: an engine returns trainers that are not running. `open` is optional. Each `start` is followed by one
    `finish`; after a `TrainerError` from either, the trainer must be stopped before the next `start`, which then
    begins with a fresh process. A stopped trainer can be used again. The caller of the engine must stop all
    trainers in the end.

    Usage:

        trainer.start(request)           # several trainers can be started before the first one is waited for
        metrics = trainer.finish()
        stop([trainer], patience, grace) # from `stopping`

    A trainer must not outlive the driver: when the driver is killed, its trainers stop before another driver can
    lock the run.
    """

    # Whether the trainer stays running between requests. If False, each request gets a process of its own.
    stays_running: bool

    @property
    def pid(self) -> int | None:
        """The process to show in `ring status`; None if nothing is running, or it has no process on this machine."""

    def open(self) -> None:
        """Begin to start up, without waiting, so that slow trainers start together.

        Does nothing if the trainer is running or does not stay running. `start` calls it where necessary.

        Raises:
            TrainerError: the trainer cannot be started.
        """

    def start(self, request: Request) -> None:
        """Hand over a request, without waiting for the answer.

        Raises:
            TrainerError: the trainer cannot be started.
        """

    def finish(self) -> dict[str, Any]:
        """Wait for the answer to the last request and return its metrics.

        Raises:
            TrainerError: the trainer failed, or did not answer within the model's timeout.
        """

    def last_words(self) -> str:
        """Return the last lines of the trainer's log since the last `start`, as one line; empty if there are none."""
