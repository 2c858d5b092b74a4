"""The verb `get`."""

from __future__ import annotations

import os
import sys

from ...errors import RefusedError, UsageError, files, printable
from ...plain import Numbers
from ...verbs import looking
from ..options import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon get CKPT NAME[SLICE] [-o FILE] [--json]

Print one variable, or the part that SLICE selects (NumPy's [3], [0:2,:]): as text to a terminal, in .npy format to a
pipe or FILE. bfloat16 and float8 are written as float32, int4 as int8, exactly; a scalar string is written raw.

  ckptsurgeon get model.ckpt dnn/layer1/Linear/Bias --json
  ckptsurgeon get model.ckpt 'dnn/layer0/Linear/Matrix[0:2,:]' -o rows.npy
  ckptsurgeon get model.ckpt global_step --json
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `get`."""
    add_checkpoint(parser)
    parser.add_argument("target", metavar="NAME[SLICE]", help="the variable, or part of it")
    parser.add_argument("-o", dest="out", metavar="FILE", help="write the values there")
    parser.add_argument("--force", action="store_true", help="overwrite an existing FILE")
    add_json(parser)


def run(args: Arguments) -> int:
    """Get."""
    to_file = args.out not in (None, "-")
    if args.json or to_file or not sys.stdout.isatty():
        data = _data(looking.get_plain(args.checkpoint, args.target), args.json)
    else:
        data = (_text(looking.get(args.checkpoint, args.target)) + "\n").encode()
    if not to_file:
        sys.stdout.buffer.write(data)
        return 0
    from ...publish import write_file

    if looking.is_file_of(args.checkpoint, args.out):
        raise RefusedError("belongs to the checkpoint", path=args.out, hint="choose another name")
    if os.path.lexists(args.out) and not args.force:
        raise RefusedError("exists already", path=args.out, hint="--force overwrites it")
    with files(args.out):
        write_file(args.out, data)
    return 0


def nested(values: Any) -> Any:
    """Nested lists that JSON can hold: NaN and infinities as strings, complex as [re, im], bytes as text."""
    if isinstance(values, list):
        return [nested(value) for value in values]
    if isinstance(values, complex):
        return [nested(values.real), nested(values.imag)]
    if isinstance(values, bytes):
        return values.decode("utf-8", "backslashreplace")
    if isinstance(values, float) and values != values:
        return "NaN"
    if isinstance(values, float) and values in (float("inf"), float("-inf")):
        return "Infinity" if values > 0 else "-Infinity"
    return values


def _data(values: Numbers | NDArray[Any], as_json: bool) -> bytes:
    if not as_json:
        return values.npy() if isinstance(values, Numbers) else _bytes(values)
    import json

    return (json.dumps(nested(values.tolist()), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _bytes(values: NDArray[Any]) -> bytes:
    """The values in .npy format; a scalar string raw."""
    import io

    import numpy as np

    if values.dtype.kind == "O":
        if values.ndim == 0:
            raw: bytes = values.item()
            return raw
        longest = max((len(value) for value in values.ravel()), default=0)
        if any(value.endswith(b"\0") for value in values.ravel()):
            raise UsageError("strings that end in NUL do not survive .npy", hint="use --json")
        values = values.astype(f"S{max(longest, 1)}")
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)
    return file.getvalue()


def _text(values: NDArray[Any]) -> str:
    import numpy as np

    from ... import numeric

    values = numeric.portable(values)
    if values.dtype.kind == "O" and values.ndim == 0:
        return printable(values.item().decode("utf-8", "surrogateescape"))
    return np.array2string(values, threshold=10_000, max_line_width=100)
