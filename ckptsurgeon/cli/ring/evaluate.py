"""The verb `ring evaluate`."""

from __future__ import annotations

from .. import render
from ..options import add_json
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring evaluate DIR [--data FILE] [--json]

Score each model's latest checkpoint, and all models together: the accuracy of classifiers, whose probabilities are
averaged, or r2 and the mean squared error of regressors. The rows are those that the run held out, or those of FILE.
A network with skflow's names is evaluated in NumPy, any other model by its 'predict' program ('ring predict --help').

  ckptsurgeon ring evaluate R
  ckptsurgeon ring evaluate R --data other.csv
  ckptsurgeon ring evaluate R --json
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring evaluate`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument("--data", metavar="FILE", help="rows with the target: as for 'ring init'")
    parser.add_argument("--target", metavar="COLUMN", help="the target in FILE; default: that of ring.toml")
    add_json(parser)


def run(args: Arguments) -> int:
    """Score."""
    from ...ring.predicting import ensemble

    rows = ensemble.evaluate(args.folder, args.data, args.target)
    scores = [key for key in rows[0] if key in ("accuracy", "r2", "mse")]
    render.emit(rows, ["model", "rows", *scores], args.json)
    for row in rows:
        if row["reason"] is not None:
            complain(f"warning: model {row['model']}: {row['reason']}")
    return 0
