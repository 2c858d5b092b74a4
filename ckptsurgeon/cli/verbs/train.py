"""The verb `train`: runs the built-in trainer for one mini-batch, in a separate process."""

from __future__ import annotations

from .. import options, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon train CKPT -o OUT --batch B [--data FILE [--target COLUMN]] [options]

Train the network that CKPT holds (skflow's names: dnn/layer0/Linear/Matrix, ...) on mini-batch B of FILE, write OUT
with the same variables, and print the metrics as one line of JSON. Batch B holds the same rows whenever FILE, seed,
batch size and holdout are the same. Without --data they are those of the ring whose folder CKPT is in: its rows, and
the seed, batch size and holdout of its ring.toml. A `command` model of a ring can run this. Needs the extra
ckptsurgeon[train]. Most of the time goes into starting TensorFlow; 'ckptsurgeon worker' starts it once.

  ckptsurgeon train a/model.ckpt-0 -o a/model.ckpt-1 --data iris.csv --target species --batch 0
  ckptsurgeon train a/model.ckpt-1 -o a/model.ckpt-1 --data iris.csv --target species --batch 1 --force
  ckptsurgeon train a/model.ckpt-1 -o a/model.ckpt-2 --data batch.npz --batch 0 --learning-rate 0.01
  ckptsurgeon train ring/a -o next --batch 7
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `train`. The trainer, a separate process, checks their values."""
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="a prefix, any of its files, or a folder")
    add("-o", dest="output", metavar="OUT", required=True, help="prefix of the checkpoint to write")
    add("--data", metavar="FILE", help="the rows: csv, .npz or .npy; default: those of the ring that CKPT is in")
    add(
        "--target",
        metavar="COLUMN",
        help="what to predict: a csv column, an array of the .npz, another .npy; without it FILE is an .npz with X and "
        "y, where y holds class numbers or values",
    )
    add("--batch", metavar="B", required=True, help="number of the mini-batch, counted from 0 across all epochs")
    options.add_mini_batches(parser)
    add(
        "--optimizer",
        metavar="NAME",
        help="SGD, Momentum, Adagrad or Adam; default: the one that wrote the slots in CKPT",
    )
    add("--learning-rate", metavar="X", help="also stored in OUT; default: CKPT's variable learning_rate, else 0.1")
    add("--force", action="store_true", help="overwrite an existing OUT")


def run(args: Arguments) -> int:
    """Replace this process by the trainer, which imports TensorFlow."""
    given = vars(args)
    processes.become("skflow.worker", {"once": given.pop("checkpoint"), **given})
