"""`worker --once`, which `ckptsurgeon train` runs: train one mini-batch from checkpoint to checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import data
from ...errors import RefusedError, UsageError, files
from ...formats import table
from ...schemes.skflow_names import CLASSIFIER
from ..checkpoints.architecture import Architecture
from .arguments import DEFAULT_LEARNING_RATE, parse_once
from .checkpoint_trainer import CheckpointTrainer, rows_for

if TYPE_CHECKING:
    from argparse import Namespace


def train_once(argv: Sequence[str]) -> str:
    """Train one mini-batch, after checking everything possible before TensorFlow is imported.

    Args:
        argv: as in `ckptsurgeon train --help`, with CKPT passed as `--once CKPT`.

    Returns:
        The metrics, one line of JSON.

    Raises:
        CkptSurgeonError: an argument or file cannot be used; no output was written.
    """
    args = parse_once(argv)
    if not args.force and os.path.lexists(args.output + ".index"):
        raise RefusedError("exists already", path=args.output, hint="--force replaces it")
    if table.by_ending(args.output) is not None:
        what = "the built-in trainer cannot write this format"
        raise UsageError(what, path=args.output, expected="the prefix of a TensorFlow checkpoint", hint="use convert")
    folder = os.path.dirname(args.output) or "."
    if not os.path.isdir(folder):
        raise UsageError("the output folder does not exist", path=folder)
    trainer = CheckpointTrainer(
        args.optimizer, args.learning_rate or DEFAULT_LEARNING_RATE, override=args.learning_rate is not None
    )
    net = trainer.architecture(args.once)
    with files(args.data):
        X, y = _table(args, net)
        rows = data.Batches(len(X), args.batch_size, args.seed, args.holdout).rows(args.batch)
        X, y = np.ascontiguousarray(X[rows]), y[rows]
        rows_for(net, X, y)
    return json.dumps(trainer.train(args.once, args.output, X, y, sync=True))


def _table(args: Namespace, net: Architecture) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the rows: class numbers or values from an .npz without --target, otherwise a table."""
    if args.target is None:
        return data.read_batch(args.data)
    classifier = net.head == CLASSIFIER
    values = data.Table(np.zeros((0, 0), np.float32), np.zeros(0, np.float32), None)
    table = data.read(args.data, args.target, like=None if classifier else values)
    if classifier:
        found = f"{len(table.classes)} classes" if table.classes is not None else "numbers with a fraction"
        if table.classes is None or len(table.classes) != net.outputs:
            what = f"the target {args.target!r} does not match the network"
            raise RefusedError(what, expected=f"{net.outputs} classes", found=found)
    return table.X, table.y
