"""The verb `ring evaluate`."""

from __future__ import annotations

import sys

from .. import render
from ..options import add_json
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring evaluate DIR [--data FILE [--target COLUMN]] [--json]

Score each model's latest checkpoint, and all models together: classifiers, whose probabilities are averaged, by
accuracy, negative log-likelihood (nll) and expected calibration error (ece, 15 bins); regressors by r2 and the mean
squared error. The rows are those that the run held out, or those of FILE, which a run without [data] needs. On a
terminal, a last line compares the ensemble with its best member, and says on how many rows the members differ.
A network with skflow's names is evaluated in NumPy, any other model by its 'predict' program ('ring predict --help').

--json prints one line per model, and one with "model": "ensemble". Keys: model, checkpoint (null for the ensemble),
rows, accuracy, nll and ece, or r2 and mse (null for a model without a vote), reason (why a model has no vote, or null);
and for the ensemble also best (the best member by accuracy and then nll, or by mse) and, for classifiers, disagreement
(the share of the rows on which not all members name the same class).

  ckptsurgeon ring evaluate R
  ckptsurgeon ring evaluate R --data other.csv
  ckptsurgeon ring evaluate R --data other.csv --target species
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
    scores = [key for key in rows[0] if key in ("accuracy", "nll", "ece", "r2", "mse")]
    render.emit(rows, ["model", "rows", *scores], args.json)
    if sys.stdout.isatty() and not args.json and rows[-1]["rows"]:
        print(_comparison(rows))
    for row in rows:
        if row["reason"] is not None:
            complain(f"warning: model {row['model']}: {row['reason']}")
    return 0


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the ensemble and its best member."""
    ensemble = rows[-1]
    best = next(row for row in rows if row["model"] == ensemble["best"])
    if "disagreement" not in ensemble:
        return (
            f"the ensemble's mse is {ensemble['mse']:.6g}, that of the best member, {best['model']}, {best['mse']:.6g}"
        )
    return (
        f"the ensemble is right on {ensemble['accuracy']:.1%} of the rows, the best member, {best['model']}, on"
        f" {best['accuracy']:.1%}; members differ on {ensemble['disagreement']:.1%}"
    )
