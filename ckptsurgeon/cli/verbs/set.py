"""The verb `set`."""

from __future__ import annotations

import sys

from ...errors import RefusedError, UsageError, files
from ...verbs import changing
from .. import render
from ..options import add_backup, add_checkpoint, add_writing, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon set CKPT NAME[SLICE] (VALUE | @FILE.npy | -) [options]

Set one variable, or the part that SLICE selects (NumPy's [3], [0:2,:]). VALUE is a number, true, false, or a JSON list
of these, of strings, or of complex numbers as [re, im]; - reads what get writes from stdin: an array in .npy format, or
the raw bytes of a string. A value that does not fit the dtype or shape is refused.

  ckptsurgeon set model.ckpt 'dnn/layer1/Linear/Bias[3]' 2
  ckptsurgeon set model.ckpt dnn/layer1/Linear/Bias 0 -o zeroed.ckpt
  ckptsurgeon get a.ckpt dnn/layer0/Linear/Bias | ckptsurgeon set b.ckpt dnn/layer0/Linear/Bias -
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `set`."""
    add_checkpoint(parser)
    parser.add_argument("target", metavar="NAME[SLICE]", help="the variable, or part of it")
    parser.add_argument("value", metavar="VALUE", help="a number, a JSON list, @FILE.npy, or - for stdin")
    add_writing(parser)
    add_backup(parser)


def run(args: Arguments) -> int:
    """Set."""
    value, path = _value(args.value)
    try:
        report = changing.set(args.checkpoint, args.target, value, **writing(args))
    except RefusedError as error:
        error.path = error.path or path
        raise
    render.report(report, args.dry_run, args.json)
    return 0


def _value(text: str) -> tuple[NDArray[Any] | bytes | str, str | None]:
    """What VALUE means: an array from a file or stdin, other bytes as they are, or the text itself; and the file."""
    if text != "-" and not text.startswith("@"):
        return text, None
    import io

    import numpy as np

    if text == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("- reads stdin, but nothing is piped into it")
        path, data = "stdin", sys.stdin.buffer.read()
    else:
        path = text[1:]
        with files(path), open(path, "rb") as file:
            data = file.read()
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        return data, path
    try:
        values: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RefusedError(f"not an array in .npy format ({error})".replace("\n", " "), path=path) from None
    return values, path
