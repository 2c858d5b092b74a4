"""The built-in trainer as a worker process: reads one JSON request per line, writes one JSON reply per line.

    ckptsurgeon worker --hidden-units 10,20,10 --features 4 --classes 3

    {"v": 1, "op": "init", "step": 0, "seed": 7, "checkpoint": null, "output": PATH, "data": null}
    {"v": 1, "op": "train", "step": 17, "seed": 12345, "checkpoint": PATH, "output": PATH, "data": PATH}

    {"step": 17, "metrics": {"loss": 0.31}}    or    {"step": 17, "error": "one line"}

`init` writes initial weights, which depend only on `seed`; without the options that describe a network, there are no
`init` requests. `train` trains the network in the checkpoint on the rows of the .npz `data` (X and y) and writes it to
`output`; nothing in it is random. If `data` is null, `batch` is the number of a mini-batch of the rows that
`batch_source` finds. A request with a `learning_rate` sets it, for this step and in the checkpoint. After an error,
even an invalid line, the worker accepts the next request. It exits at once at the end of stdin.

With `--once CKPT` it trains one mini-batch and exits; `ckptsurgeon train` runs it that way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from .. import data, serving
from ..errors import UsageError
from .checkpoints.architecture import Architecture
from .trainer.arguments import parse_worker
from .trainer.batch_source import BatchSource
from .trainer.checkpoint_trainer import CheckpointTrainer, write_initial
from .trainer.single_step import train_once


class RequestHandler:
    """Handles the requests of a worker.

    Args:
        first, optimizer, learning_rate, source: those of `WorkerArguments`.
    """

    def __init__(
        self, first: Architecture | None, optimizer: str | None, learning_rate: float, source: BatchSource
    ) -> None:
        self._first = first
        self._learning_rate = learning_rate
        self._source = source
        self._trainer = CheckpointTrainer(optimizer, learning_rate)

    def answer(self, line: bytes) -> dict[str, Any]:
        """Handle one line and return the reply; any failure becomes its `error`."""
        return serving.answer(self.do, line)

    def do(self, request: Mapping[str, Any]) -> dict[str, float]:
        """Do what a request asks for, and return the metrics."""
        if request.get("op") == "init":
            seed = serving.seed_of(request)
            if self._first is None:
                hint = "start it with --hidden-units, --features, and --classes or --outputs"
                raise UsageError("this worker knows no network for init requests", hint=hint)
            write_initial(self._first, serving.path_of(request, "output"), seed, self._learning_rate)
            return {}
        if request.get("op") == "train":
            checkpoint, output = (serving.path_of(request, name) for name in ("checkpoint", "output"))
            X, y = self._rows(request, checkpoint)
            return self._trainer.train(checkpoint, output, X, y, learning_rate=serving.learning_rate_of(request))
        raise UsageError("the request has an unknown op", expected="init or train", found=repr(request.get("op")))

    def _rows(self, request: Mapping[str, Any], checkpoint: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows of the request's file, or those of a batch of this worker's rows."""
        if request.get("data") is not None:
            return data.read_batch(serving.path_of(request, "data"))
        batch = serving.number_of(request, "batch")
        return self._source.rows(checkpoint, self._trainer.architecture(checkpoint), batch)


def main(argv: Sequence[str]) -> int:
    """Run the worker, or a single step with `--once`.

    Args:
        argv: the arguments.

    Returns:
        The exit status: 0 success, 2 refused, 3 bug, 130 interrupted.
    """
    return serving.status_of(lambda: _run(argv))


def _run(argv: Sequence[str]) -> None:
    if any(argument == "--once" or argument.startswith("--once=") for argument in argv):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # remove staged files, as after Ctrl-C
        os.write(serving.keep_stdout(), train_once(argv).encode() + b"\n")
    else:
        worker = RequestHandler(*parse_worker(argv))
        stdout = serving.keep_stdout()
        threading.Thread(target=_import_tensorflow, daemon=True).start()
        serving.serve(worker.do, stdout)


def _import_tensorflow() -> None:
    """Import TensorFlow in the background; a failure is reported by the first request that needs it."""
    try:
        from .graph import step_function  # noqa: F401
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    # TensorFlow imports Keras where it finds it, and Keras imports scikit-learn and matplotlib: half of the start-up
    # time, and nothing of it is used here. None makes it take a module for missing.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras")))  # type: ignore[arg-type]
    serving.leave(main(sys.argv[1:]))
