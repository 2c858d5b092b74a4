"""Parses and checks the arguments of the built-in trainer before anything slow is imported."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

from ...errors import UsageError, did_you_mean
from ...schemes.skflow_names import CLASSIFIER, REGRESSOR, SLOTS
from ...serving import ArgumentParser
from ..checkpoints.architecture import Architecture
from .batch_source import BatchSource

DEFAULT_LEARNING_RATE = 0.1
DEFAULT_OPTIMIZER = "Adagrad"  # for new networks


class WorkerArguments(NamedTuple):
    """What a worker is started with.

    Attributes:
        first: the network of `init` requests; None if there are none.
        optimizer: the optimizer of `train` requests; None for the one whose slots the checkpoint has.
        learning_rate: for `init` requests, and for checkpoints without one.
        source: the rows of requests without `data`.
    """

    first: Architecture | None
    optimizer: str | None
    learning_rate: float
    source: BatchSource


def parse_worker(argv: Sequence[str]) -> WorkerArguments:
    """Parse the arguments of a worker, a trainer process that is kept running.

    Raises:
        UsageError: an argument is invalid, or TensorFlow is not installed.
    """
    parser = ArgumentParser(
        prog="ckptsurgeon worker",
        description="The built-in trainer: one JSON request per line on stdin, one reply per line on stdout.",
        epilog="With --once CKPT it trains one mini-batch and exits; see 'ckptsurgeon train --help'.",
        allow_abbrev=False,
    )
    parser.add_argument("--hidden-units", type=_widths, metavar="N,N,...", help="widths of the hidden layers")
    parser.add_argument("--features", type=_count, metavar="N", help="number of columns of X")
    heads = parser.add_mutually_exclusive_group()
    heads.add_argument("--classes", type=_classes, metavar="N", help="number of classes, for a classifier")
    heads.add_argument("--outputs", type=_count, metavar="N", help="number of values per row, for a regressor")
    _add_training(parser)
    args = parser.parse_args(argv)
    _need_tensorflow()
    rate = args.learning_rate or DEFAULT_LEARNING_RATE
    net = {
        "--hidden-units": args.hidden_units,
        "--features": args.features,
        "--classes or --outputs": args.classes or args.outputs,
    }
    missing = [option for option, value in net.items() if value is None]
    if len(missing) == len(net):
        return WorkerArguments(None, args.optimizer, rate, _source(args))
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing", expected="all options of a network, for init, or none")
    head, outputs = (CLASSIFIER, args.classes) if args.classes else (REGRESSOR, args.outputs)
    optimizer = args.optimizer or DEFAULT_OPTIMIZER
    first = Architecture(args.features, args.hidden_units, head, outputs, optimizer)
    return WorkerArguments(first, optimizer, rate, _source(args))


def parse_once(argv: Sequence[str]) -> tuple[argparse.Namespace, BatchSource]:
    """Parse the arguments of a single training step, which are those of `ckptsurgeon train`.

    Raises:
        UsageError: an argument is invalid, or TensorFlow is not installed.
    """
    parser = ArgumentParser(prog="ckptsurgeon train", add_help=False, allow_abbrev=False)
    parser.add_argument("--once", required=True, metavar="CKPT")
    parser.add_argument("-o", "--output", required=True, metavar="OUT")
    parser.add_argument("--batch", required=True, type=_from_zero, metavar="B")
    parser.add_argument("--force", action="store_true")
    _add_training(parser)
    args = parser.parse_args(argv)
    _need_tensorflow()
    return args, _source(args)


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Add what a worker and a single step share: the rows and the optimizer."""
    parser.add_argument("--data", metavar="FILE", help="the rows; default: those of the ring around a checkpoint")
    parser.add_argument("--target", metavar="COLUMN", help="what to predict, in FILE")
    parser.add_argument("--batch-size", type=_count, metavar="N", help="rows of a mini-batch")
    parser.add_argument("--holdout", type=_share, metavar="SHARE", help="share of the rows to leave out")
    parser.add_argument("--seed", type=_integer, metavar="N", help="seed of the order of the rows")
    parser.add_argument("--optimizer", type=_optimizer, metavar="NAME", help=", ".join(SLOTS))
    parser.add_argument("--learning-rate", type=_rate, metavar="X", help="default: 0.1")


def _source(args: argparse.Namespace) -> BatchSource:
    if args.target is not None and args.data is None:
        raise UsageError("--target needs --data", hint="without both, rows and target are those of the ring")
    return BatchSource(args.data, args.target, args.batch_size, args.seed, args.holdout)


def _need_tensorflow() -> None:
    if find_spec("tensorflow") is None:
        raise UsageError("training needs TensorFlow", hint="pip install 'ckptsurgeon[train]'")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None


def _at_least(least: int, text: str) -> int:
    number = _integer(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, found {text!r}")
    return number


def _from_zero(text: str) -> int:
    return _at_least(0, text)


def _count(text: str) -> int:
    return _at_least(1, text)


def _classes(text: str) -> int:
    return _at_least(2, text)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(",")) if text else ()


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _rate(text: str) -> float:
    if not 0 < (rate := _float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return rate


def _share(text: str) -> float:
    if not 0 <= (share := _float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 up to but not including 1, found {text!r}")
    return share


def _optimizer(text: str) -> str:
    if text not in SLOTS:
        hint = did_you_mean(text, SLOTS) or f"expected {', '.join(SLOTS)}"
        raise argparse.ArgumentTypeError(f"there is no optimizer {text!r}; {hint}")
    return text
