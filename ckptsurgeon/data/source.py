"""A Python source of mini-batches, run as a process of its own: reads one JSON request per line, writes one reply.

    python -m ckptsurgeon.data.source FILE.py [CLASSES]       CLASSES: JSON, a number, a list of names or null

    {"step": 3, "function": "batches", "batch": 7, "output": PATH}      calls batches(7)
    {"step": 4, "function": "held_out", "batch": null, "output": PATH}  calls held_out()

    {"step": 3, "metrics": {}}    or    {"step": 3, "error": "one line"}

The function returns (X, y) of the batch, or an iterator whose first item is that batch, and the next one the batch
after it. What it returns is checked and written to `output` as a batch of a run is: an .npz with X, float32, and y. The
function's prints go to standard error. The process exits at the end of stdin.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import serving
from ..errors import RefusedError, shape_text
from .batches import write_batch


class Source:
    """The functions of a Python file.

    Args:
        path: the file.
        classes: the number of classes or their names; None if y holds values.
    """

    def __init__(self, path: str, classes: int | Sequence[str] | None) -> None:
        self._path = path
        self._classes = classes
        self._module: Any = None
        self._following: dict[
            str, tuple[int, Iterator[Any]]
        ] = {}  # function -> the batch that its iterator yields next

    def rows(self, function: str, batch: int | None) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return what a function of the file has for a batch, checked; None calls it without an argument.

        Raises:
            RefusedError: there is no such function, or it does not return rows.
            Exception: whatever the function raises.
        """
        expected, iterator = self._following.pop(function, (None, None))
        found = next(iterator, None) if iterator is not None and batch == expected else self._call(function, batch)
        if isinstance(found, Iterator):
            iterator, found = found, next(found, None)
        if iterator is not None and batch is not None:
            self._following[function] = batch + 1, iterator
        if found is None:
            raise RefusedError(
                f"{function} has no batch {batch}", hint="a source has no end: begin again from the start"
            )
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise RefusedError(f"{function} does not return rows", expected="(X, y)", found=type(found).__name__)
        return checked(found[0], found[1], self._classes)

    def _call(self, function: str, batch: int | None) -> Any:
        if self._module is None:
            self._module = serving.import_file(self._path, "ckptsurgeon_source")
        found = getattr(self._module, function, None)
        if not callable(found):
            raise RefusedError(f"has no function {function!r}")
        return found() if batch is None else found(batch)


def checked(X: Any, y: Any, classes: int | Sequence[str] | None) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return rows as a batch holds them.

    Args:
        X: numbers, [rows, features] or with more axes.
        y: class numbers, or names of classes, [rows]; values, [rows] or [rows, outputs].
        classes: the number of classes or their names; None if y holds values.

    Returns:
        X, float32; and class numbers, int64, or values, float32.

    Raises:
        RefusedError: they are no rows.
    """
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim < 2 or X.dtype.kind not in "fiub" or 0 in X.shape:
        raise RefusedError("X cannot be used", expected="numbers [rows, features], or with more axes", found=_kind(X))
    with np.errstate(over="ignore"):
        X = np.ascontiguousarray(X, np.float32)
    if not np.isfinite(X).all():
        raise RefusedError("X contains values that are not finite as float32")
    if len(y) != len(X) if y.ndim else True:
        raise RefusedError("y cannot be used", expected=f"[{len(X)}]", found=_kind(y))
    if classes is None:
        if y.ndim > 2 or y.dtype.kind != "f" or 0 in y.shape:
            hint = "for classes, write classes = NUMBER under [data]" if y.dtype.kind in "iubU" else None
            raise RefusedError(
                "y cannot be used", expected="floats [rows] or [rows, outputs]", found=_kind(y), hint=hint
            )
        with np.errstate(over="ignore"):
            y = y.astype(np.float32)
        if not np.isfinite(y).all():
            raise RefusedError("y contains values that are not finite as float32")
        return X, y
    count = classes if isinstance(classes, int) else len(classes)
    if y.ndim == 1 and y.dtype.kind == "U" and not isinstance(classes, int):
        number = {name: index for index, name in enumerate(classes)}
        unknown = next((text for text in y.tolist() if text not in number), None)
        if unknown is not None:
            raise RefusedError("y contains an unknown class", expected=" or ".join(classes[:10]), found=repr(unknown))
        y = np.array([number[text] for text in y.tolist()])
    if y.ndim != 1 or y.dtype.kind not in "iub" or y.min() < 0 or y.max() >= count:
        found = _kind(y) if y.ndim != 1 or y.dtype.kind not in "iub" else f"{y.min()} to {y.max()}"
        raise RefusedError("y cannot be used", expected=f"class numbers from 0 to {count - 1}", found=found)
    return X, y.astype(np.int64)


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype} {shape_text(*values.shape)}"


def main(argv: Sequence[str]) -> int:
    """Answer requests until the end of standard input."""
    stdout = serving.keep_stdout()
    source = Source(argv[0], json.loads(argv[1]))
    for line in sys.stdin.buffer:
        request = json.loads(line)

        def write(request: Mapping[str, Any] = request) -> Mapping[str, float]:
            write_batch(request["output"], *source.rows(request["function"], request["batch"]))
            return {}

        answer = serving.reply(request["step"], write, (Exception, SystemExit))
        os.write(stdout, json.dumps(answer).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
