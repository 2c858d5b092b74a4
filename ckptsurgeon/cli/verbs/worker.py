"""The verb `worker`: the built-in trainer, kept running, in a separate process."""

from __future__ import annotations

from .. import options, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon worker [--data FILE [--target COLUMN]] [options]

Train checkpoints as 'ckptsurgeon train' does, but start TensorFlow only once: read one JSON request per line on stdin,
and write one reply per line on stdout, until stdin ends. It is the trainer's contract, which any program may speak:

  {"v": 1, "op": "train", "step": 1, "batch": 0, "checkpoint": "a/ckpt", "output": "a/ckpt", "data": null}
  {"step": 1, "metrics": {"loss": 1.0986}}    or    {"step": 1, "error": "one line"}

"data" is an .npz with X and y of the batch. If it is null, the rows are mini-batch "batch" of FILE, or, without
--data, of the ring whose folder the checkpoint is in. The network is that of the checkpoint; an existing output is
replaced. The op "init" writes initial weights, which depend only on "seed", of the network that --hidden-units,
--features, and --classes or --outputs describe. Relative paths start at the working directory. Needs the extra
ckptsurgeon[train].

  ckptsurgeon worker < requests > replies
  ckptsurgeon worker --data iris.csv --target species < requests > replies
  ckptsurgeon worker --hidden-units 10,20,10 --features 4 --classes 3 --optimizer Adam < requests
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `worker`. The trainer, a separate process, checks their values."""
    add = parser.add_argument
    add("--data", metavar="FILE", help="the rows of requests whose data is null: csv, .npz or .npy")
    add("--target", metavar="COLUMN", help="what to predict, as in 'ckptsurgeon train'")
    options.add_mini_batches(parser)
    add(
        "--optimizer",
        metavar="NAME",
        help="SGD, Momentum, Adagrad or Adam; default: the one that wrote the checkpoint's slots; for init Adagrad",
    )
    add(
        "--learning-rate",
        metavar="X",
        help="for init, and for checkpoints without a learning_rate; default 0.1",
    )
    add("--hidden-units", metavar="N,N,...", help="for init: widths of the hidden layers")
    add("--features", metavar="N", help="for init: number of columns of X")
    add("--classes", metavar="N", help="for init: number of classes, of a classifier")
    add("--outputs", metavar="N", help="for init: number of values per row, of a regressor")


def run(args: Arguments) -> int:
    """Replace this process by the trainer, which imports TensorFlow."""
    processes.become("skflow.worker", vars(args))
