"""The built-in trainer as a worker process: reads one JSON request per line, writes one JSON reply per line.

    ckptsurgeon worker --hidden-units 10,20,10 --features 4 --classes 3

    {"v": 1, "op": "init", "step": 0, "seed": 7, "checkpoint": null, "output": PATH, "data": null}
    {"v": 1, "op": "train", "step": 17, "seed": 12345, "checkpoint": PATH, "output": PATH, "data": PATH}

    {"step": 17, "metrics": {"loss": 0.31}}    or    {"step": 17, "error": "one line"}

`init` writes initial weights, which depend only on `seed`; without the options that describe a network, there are no
`init` requests. `train` trains the network in the checkpoint on the rows of the .npz `data` (X and y) and writes it to
`output`; nothing in it is random. If `data` is null, `batch` is the number of a mini-batch of the rows that
`batch_source` finds. After an error, even an invalid line, the worker accepts the next request. It exits at once at the
end of stdin.

With `--once CKPT` it trains one mini-batch and exits; `ckptsurgeon train` runs it that way.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..errors import CkptSurgeonError, UsageError
from .checkpoints.architecture import Architecture
from .trainer.arguments import parse_worker
from .trainer.batch_source import BatchSource, read_rows
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
        step = None
        try:
            request = _parse(line)
            step = request.get("step")
            return {"step": step, "metrics": self._do(request)}
        except CkptSurgeonError as error:
            return {"step": step, "error": "; ".join(error.lines)}
        except Exception as error:  # a bug in this program or TensorFlow: log the traceback
            traceback.print_exc()
            reason = " ".join(str(error).split())[:300]
            return {"step": step, "error": f"{type(error).__name__}: {reason}"}

    def _do(self, request: dict[str, Any]) -> dict[str, float]:
        if request.get("v") != 1:
            raise UsageError("unsupported protocol version", expected="v 1", found=request.get("v"))
        if request.get("op") == "init":
            seed = _number(request, "seed")
            if self._first is None:
                hint = "start it with --hidden-units, --features, and --classes or --outputs"
                raise UsageError("this worker knows no network for init requests", hint=hint)
            write_initial(self._first, _path(request, "output"), seed, self._learning_rate)
            return {}
        if request.get("op") == "train":
            checkpoint, output = _path(request, "checkpoint"), _path(request, "output")
            return self._trainer.train(checkpoint, output, *self._rows(request, checkpoint))
        raise UsageError("the request has an unknown op", expected="init or train", found=repr(request.get("op")))

    def _rows(self, request: dict[str, Any], checkpoint: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows of the request's file, or those of a batch of this worker's rows."""
        if request.get("data") is not None:
            return read_rows(_path(request, "data"))
        return self._source.rows(checkpoint, self._trainer.architecture(checkpoint), _number(request, "batch"))


def main(argv: Sequence[str]) -> int:
    """Run the worker, or a single step with `--once`.

    Args:
        argv: the arguments.

    Returns:
        The exit status: 0 success, 2 refused, 3 bug, 130 interrupted.
    """
    try:
        if any(argument == "--once" or argument.startswith("--once=") for argument in argv):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # remove staged files, as after Ctrl-C
            os.write(_keep_stdout(), train_once(argv).encode() + b"\n")
        else:
            worker = RequestHandler(*parse_worker(argv))
            _serve(worker, _keep_stdout())
    except CkptSurgeonError as error:
        for text in error.lines:
            print(f"ckptsurgeon: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ckptsurgeon: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the replies is gone
        return 0
    except Exception:
        traceback.print_exc()
        return 3
    return 0


def _serve(worker: RequestHandler, stdout: int) -> None:
    """Reply to each line until the input ends."""
    threading.Thread(target=_import_tensorflow, daemon=True).start()
    while line := sys.stdin.buffer.readline():
        os.write(stdout, json.dumps(worker.answer(line)).encode() + b"\n")


def _keep_stdout() -> int:
    """Reserve standard output for the protocol, and send everything else printed there to standard error."""
    protocol = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    return protocol


def _import_tensorflow() -> None:
    """Import TensorFlow in the background; a failure is reported by the first request that needs it."""
    try:
        from .graph import step_function  # noqa: F401
    except Exception:
        traceback.print_exc()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise UsageError("the request is not a JSON object", found=type(request).__name__)
    return request


def _path(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"the request has no valid {name}", expected="a path", found=json.dumps(value)[:100])
    return value


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        expected = "a whole number from 0"
        raise UsageError(f"the request has no valid {name}", expected=expected, found=json.dumps(value)[:100])
    return value


if __name__ == "__main__":
    # TensorFlow imports Keras where it finds it, and Keras imports scikit-learn and matplotlib: half of the start-up
    # time, and nothing of it is used here. None makes it take a module for missing.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras")))  # type: ignore[arg-type]
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # exit at once, without waiting for a running import of TensorFlow or its threads
