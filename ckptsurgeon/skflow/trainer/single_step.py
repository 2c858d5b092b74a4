"""`worker --once`, which `ckptsurgeon train` runs: train one mini-batch from checkpoint to checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from ...errors import RefusedError, UsageError, files
from ...formats import table
from .arguments import DEFAULT_LEARNING_RATE, parse_once
from .checkpoint_trainer import CheckpointTrainer, rows_for


def train_once(argv: Sequence[str]) -> str:
    """Train one mini-batch, after checking everything possible before TensorFlow is imported.

    Args:
        argv: as in `ckptsurgeon train --help`, with CKPT passed as `--once CKPT`.

    Returns:
        The metrics, one line of JSON.

    Raises:
        CkptSurgeonError: an argument or file cannot be used; no output was written.
    """
    args, source = parse_once(argv)
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
    with files(args.data or args.once):
        X, y = source.rows(args.once, net, args.batch)
        rows_for(net, X, y)
    return json.dumps(trainer.train(args.once, args.output, X, y, sync=True))
