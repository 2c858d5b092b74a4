"""The trainer's side of the contract: reads one JSON request per line, writes one JSON reply per line.

    {"v": 1, "op": "train", "step": 17, "seed": 12345, "checkpoint": PATH, "output": PATH, "data": PATH}

    {"step": 17, "metrics": {"loss": 0.31}}    or    {"step": 17, "error": "one line"}

After an error, even an invalid line, a worker accepts the next request. It exits at once at the end of stdin.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

from .errors import CkptSurgeonError, UsageError, one_line

# Does what a request asks for and returns the metrics; any exception becomes the reply's `error`.
Handle = Callable[[Mapping[str, Any]], Mapping[str, float]]


def serve(handle: Handle, stdout: int) -> None:
    """Reply to each line of stdin until it ends.

    Args:
        handle: does the work.
        stdout: the descriptor that `keep_stdout` returned.
    """
    while line := sys.stdin.buffer.readline():
        os.write(stdout, json.dumps(answer(handle, line)).encode() + b"\n")


def answer(handle: Handle, line: bytes) -> dict[str, Any]:
    """Handle one line and return the reply; any failure becomes its `error`."""
    try:
        request = _parse(line)
    except UsageError as error:
        return {"step": None, "error": "; ".join(error.lines)}

    def do() -> Mapping[str, float]:
        if request.get("v") != 1:
            raise UsageError("unsupported protocol version", expected="v 1", found=request.get("v"))
        return handle(request)

    return reply(request.get("step"), do)


def reply(
    step: object, do: Callable[[], Mapping[str, float]], caught: tuple[type[BaseException], ...] = (Exception,)
) -> dict[str, Any]:
    """Do something for a step, and return the reply.

    Args:
        step: the request's, which the reply names.
        do: returns the metrics.
        caught: what becomes the reply's `error`, beside our own errors.
    """
    try:
        return {"step": step, "metrics": dict(do())}
    except CkptSurgeonError as error:
        return {"step": step, "error": "; ".join(error.lines)}
    except caught as error:  # a bug in this program or in a framework, or the user's: log the traceback
        traceback.print_exc()
        return {"step": step, "error": f"{type(error).__name__}: {one_line(error)}"}


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        raise UsageError(message)


def import_file(path: str, name: str) -> ModuleType:
    """Import a file of the user's, which may import modules that stand beside it; raises whatever it raises.

    Args:
        path: the file.
        name: what the module is called in `sys.modules`, where Keras and pickle look for its classes.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(path))
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def path_of(request: Mapping[str, Any], name: str) -> str:
    """Return a field of a request that is a path; UsageError if it is anything else."""
    value = request.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"the request has no valid {name}", expected="a path", found=json.dumps(value)[:100])
    return value


def seed_of(request: Mapping[str, Any]) -> int:
    """Return the seed of a request; UsageError if it is not a whole number from 0."""
    return number_of(request, "seed")


def number_of(request: Mapping[str, Any], name: str) -> int:
    """Return a field of a request that is a number; UsageError if it is not a whole number from 0."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        expected = "a whole number from 0"
        raise UsageError(f"the request has no valid {name}", expected=expected, found=json.dumps(value)[:100])
    return value


def learning_rate_of(request: Mapping[str, Any]) -> float | None:
    """Return the learning rate of a request, None if it leaves that to the trainer; UsageError if it is invalid."""
    rate = request.get("learning_rate")
    if rate is not None and (type(rate) not in (int, float) or not 0 <= rate < math.inf):
        found = json.dumps(rate)[:100]
        raise UsageError("the request has no valid learning_rate", expected="a number or null", found=found)
    return rate


def keep_stdout() -> int:
    """Reserve standard output for the protocol, and send everything else printed there to standard error."""
    protocol = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    return protocol


def status_of(run: Callable[[], None]) -> int:
    """Run a worker and return its exit status: 0 success, 2 refused, 3 bug, 130 interrupted."""
    try:
        run()
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


def leave(status: int) -> NoReturn:
    """Exit at once, without waiting for a running import of TensorFlow or its threads."""
    sys.stderr.flush()
    os._exit(status)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise UsageError("the request is not a JSON object", found=type(request).__name__)
    return request
