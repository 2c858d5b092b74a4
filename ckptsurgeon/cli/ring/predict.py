"""The verb `ring predict`."""

from __future__ import annotations

import os
import sys

from ...errors import RefusedError, UsageError, files
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring predict DIR --data FILE -o OUT.csv [--force]

Predict with the latest checkpoints of all models together. OUT is csv. For classifiers it has the column 'prediction'
and one column per class with the mean of the models' probabilities; for regressors 'prediction' holds the mean of their
values, or prediction_0, prediction_1, ... with several outputs. Rows keep the order of FILE.

FILE is csv or parquet, with or without the target column, an .npz with X, an .npy, or a folder of images. Columns are
found by their names at 'ring init'; other columns are ignored. All but .npz may be larger than memory.

A network with skflow's names (dnn/layer0/Linear/Matrix, ..., logistic_regression/weights) is evaluated in NumPy. Any
other model needs a program, given by 'predict' in ring.toml, which gets up to 100,000 rows at a time:

  predict = ["python", "predict.py", "{checkpoint}", "{data}", "{output}"]

{data} is an .npz with X, float32 [rows, features], or with more axes if the run's rows have them. The program writes
[rows, outputs] to {output}: probabilities in the order of the sorted classes, or values, as .npy, as .npz with one
array, or as csv without a header. A model with neither has no vote, and a warning says so.

  ckptsurgeon ring predict R --data new.csv -o predictions.csv
  ckptsurgeon ring predict R --data new.npy -o - | head
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring predict`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument(
        "--data", metavar="FILE", required=True, help="the rows: csv, parquet, .npz, .npy or a folder of images"
    )
    parser.add_argument("-o", dest="out", metavar="OUT", required=True, help="the csv to write; - for stdout")
    parser.add_argument("--force", action="store_true", help="overwrite an existing OUT")


def run(args: Arguments) -> int:
    """Predict."""
    from ...formats import table
    from ...publish import write_file
    from ...ring.predicting import ensemble

    if table.by_ending(args.out) is not None:
        raise UsageError("predictions are csv", path=args.out, expected="OUT.csv, or -")
    if args.out != "-" and os.path.exists(args.out):
        with files(args.out):
            if os.path.exists(args.data) and os.path.samefile(args.out, args.data):
                raise RefusedError("is the file with the rows", path=args.out, hint="choose another name")
        if not args.force:
            raise RefusedError("exists already", path=args.out, hint="--force overwrites it")
    rows = ensemble.predict(args.folder, args.data, _warn)
    if args.out != "-":
        write_file(args.out, _csv(rows))
        return 0
    for part in _csv(rows):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    return 0


def _csv(parts: Iterable[list[list[Any]]]) -> Iterator[bytes]:
    import csv
    import io

    for rows in parts:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        yield text.getvalue().encode()


def _warn(line: str) -> None:
    complain(f"warning: {line}")
