"""The trainer of a model that a user's function builds, as a worker process; see `serving` for the protocol.

    python -m ckptsurgeon.frameworks.worker /path/model.py:function --input-shape 8,8,1 --classes 10 --seed 12345

`init` writes initial weights, which depend only on the request's `seed`. `train` reads the checkpoint, trains it on
the rows of the .npz `data` (X and y), with the `learning_rate` of the request if it has one, and writes it to `output`.
`predict` writes what the model in the checkpoint returns for the rows X of `data` to `output`, an .npy [rows, outputs]:
probabilities, or values.

The model is built once, with `--seed`, the seed of the member's initial weights: the function may also let the seed
decide what it does not store. `init` and `predict` build another model where their seed differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import data, serving
from ..errors import CkptSurgeonError, UsageError, files
from . import function, nets
from .net import Net, Problem


class RequestHandler:
    """Handles the requests of a worker.

    Args:
        place: the function, as `function.load` takes it.
        problem: what its models are to learn.
        seed: of the member that `train` requests train.
    """

    def __init__(self, place: str, problem: Problem, seed: int) -> None:
        self._place = place
        self._problem = problem
        self._seed = seed
        self._nets: dict[int, Net] = {}  # by the seed that they were built with
        self._trained: set[int] = set()  # those that no longer hold their initial weights

    def prepare(self) -> None:
        """Import the framework and build the model before the first request, which reports again what fails here."""
        with contextlib.suppress(CkptSurgeonError):
            self._net(self._seed)

    def do(self, request: Mapping[str, Any]) -> Mapping[str, float]:
        """Do what a request asks for, and return the metrics."""
        op = request.get("op")
        if op == "init":
            seed = serving.seed_of(request)
            net = self._net(seed) if seed not in self._trained else self._build(seed)
            net.initial(serving.path_of(request, "output"))
            return {}
        if op not in ("train", "predict"):
            raise UsageError("the request has an unknown op", expected="init, train or predict", found=repr(op))
        seed = serving.seed_of(request)
        checkpoint, output, rows = (serving.path_of(request, name) for name in ("checkpoint", "output", "data"))
        self._trained.add(self._seed if op == "train" else seed)
        if op == "train":
            rate = serving.learning_rate_of(request)
            return self._net(self._seed).train(checkpoint, output, *data.read_batch(rows), seed, rate)
        outputs = self._net(seed).outputs(checkpoint, data.load_npz(rows)["X"])
        with files(output), open(output, "wb") as file:
            np.save(file, outputs)
        return {}

    def _net(self, seed: int) -> Net:
        if seed not in self._nets:
            self._nets[seed] = self._build(seed)
        return self._nets[seed]

    def _build(self, seed: int) -> Net:
        return nets.build(function.load(self._place), self._problem, seed)


def _run(argv: Sequence[str]) -> None:
    parser = serving.ArgumentParser(
        prog="python -m ckptsurgeon.frameworks.worker",
        description="Trains a model that a function builds: one JSON request per line on stdin, one reply on stdout.",
        allow_abbrev=False,
    )
    parser.add_argument("function", metavar="FILE.py:FUNCTION", help="takes (input_shape, classes, seed)")
    parser.add_argument("--input-shape", required=True, type=_shape, metavar="N,N,...", help="shape of a row of X")
    heads = parser.add_mutually_exclusive_group(required=True)
    heads.add_argument("--classes", type=int, metavar="N", help="number of classes, for a classifier")
    heads.add_argument("--outputs", type=int, metavar="N", help="number of values per row, for a regressor")
    parser.add_argument("--seed", required=True, type=int, metavar="N", help="seed of the initial weights")
    args = parser.parse_args(argv)
    stdout = serving.keep_stdout()  # before the user's code prints anything
    problem = Problem(args.input_shape, args.classes, args.classes or args.outputs)
    _serve(RequestHandler(args.function, problem, args.seed), stdout)


def _serve(worker: RequestHandler, stdout: int) -> None:
    """Reply to each line of stdin; exit at its end even while the framework is being imported.

    One thread does all the work: Keras keeps its settings by thread.
    """
    lines: queue.Queue[bytes] = queue.Queue()

    def work() -> None:
        worker.prepare()
        while True:
            os.write(stdout, json.dumps(serving.answer(worker.do, lines.get())).encode() + b"\n")
            lines.task_done()

    threading.Thread(target=lambda: serving.leave(serving.status_of(work)), daemon=True).start()
    while line := sys.stdin.buffer.readline():
        lines.put(line)
    lines.join()  # what was asked for is still answered


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    serving.leave(serving.status_of(lambda: _run(sys.argv[1:])))
