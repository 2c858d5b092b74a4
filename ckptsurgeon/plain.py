"""Numbers as Python itself can read, print and pack them, without NumPy: it takes several times as long to import as
`get` and `set` of a small checkpoint take.

What is not plain (other dtypes, slices, lists, text that must be judged) is left to `numeric`.
"""

from __future__ import annotations

import sys

from .checkpoint import ITEM_SIZE
from .errors import UsageError
from .names import DIGITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .checkpoint import Checkpoint, Variable

# Codes of the modules `struct` and `array`, and of memoryviews.
_CODES = {
    "bool": "?", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
    "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip
_MOST = 1 << 20  # bytes; NumPy holds more of them only once, and is imported in less time than they take
_MOST_AXES = 32  # of a NumPy array, before NumPy 2
_EXACT = 1 << 53  # integers up to this are float64 too, so that they are rounded to a float once

# .npy: MAGIC, version (2 bytes), length of the text (2 bytes), text, values; see formats/npz/header.py.
MAGIC = b"\x93NUMPY"
_ALIGNMENT = 64
_DIGITS = 21  # room that NumPy leaves for the length of the first axis
LETTERS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}


class Numbers:
    """The values of a variable, or of a part of it.

    Attributes:
        dtype: name of the dtype.
        shape: of the values.
        data: the numbers in C order and native byte order.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
        self.dtype, self.shape, self.data = dtype, shape, data

    def tolist(self) -> Any:
        """The numbers as nested lists, as NumPy gives them."""
        view: Any = memoryview(self.data)
        return view.cast(_CODES[self.dtype], self.shape).tolist()

    def npy(self) -> bytes:
        """The numbers as a .npy file, byte for byte as NumPy writes it."""
        descr = descr_of(self.dtype)
        assert descr is not None
        return header(descr, self.shape) + self.data

    def at(self, index: tuple[Any, ...] | None) -> Numbers | None:
        """The part that an index selects; None if it is not one behind the other in memory, or out of bounds."""
        span = self._span(index)
        return None if span is None else Numbers(self.dtype, self.shape[len(index or ()) :], self.data[span])

    def with_number(self, index: tuple[Any, ...] | None, text: str) -> Numbers | None:
        """These numbers with another one in each place that an index selects; None if `numeric` must judge of it."""
        span, element = self._span(index), _packed(text, self.dtype)
        if span is None or element is None:
            return None
        count = (span.stop - span.start) // len(element)
        return Numbers(self.dtype, self.shape, self.data[: span.start] + element * count + self.data[span.stop :])

    def _span(self, index: tuple[Any, ...] | None) -> slice | None:
        shape = self.shape
        step, start = len(self.data), 0
        for item in index or ():
            if not isinstance(item, int) or not shape or not -shape[0] <= item < shape[0]:
                return None
            step //= shape[0]
            start += item % shape[0] * step
            shape = shape[1:]
        return slice(start, start + step)


def numbers_of(checkpoint: Checkpoint, variable: Variable) -> Numbers | None:
    """The values of a variable, verified; None if they are not plain, or many.

    Raises:
        CkptSurgeonError: the stored bytes are damaged or cannot be read.
    """
    size = variable.size * ITEM_SIZE.get(variable.dtype, 0)
    if variable.dtype not in _CODES or not 0 < size <= _MOST or sys.byteorder != "little":
        return None
    if len(variable.shape) > _MOST_AXES:
        return None
    stored = checkpoint.payload(variable)
    if stored is None or stored[1] != sys.byteorder:
        return None
    data = b"".join(stored[0])
    return Numbers(variable.dtype, variable.shape, data) if len(data) == size else None


def _packed(text: str, dtype: str) -> bytes | None:
    """The bytes of the number that a person typed; None if the text is no number, or may not fit."""
    import struct

    number: float
    try:
        number = int(text, 0)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            return None
        if not dtype.startswith("float") or (abs(number) == float("inf") and "inf" not in text.lower()):
            return None
    else:
        if (dtype.startswith("float") and abs(number) > _EXACT) or (dtype == "bool" and number not in (0, 1)):
            return None
    try:
        return struct.pack(f"={_CODES[dtype]}", number)
    except (struct.error, OverflowError):
        return None


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file of an array in C order, as NumPy writes it, with the values aligned."""
    numbers = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({numbers}), }}".encode()
    text += b" " * (_DIGITS - len(str(shape[0])) if shape else 0)  # room for the first axis to grow
    text += b" " * (-(len(text) + 11) % _ALIGNMENT) + b"\n"
    return MAGIC + b"\x01\0" + len(text).to_bytes(2, "little") + text


def descr_of(dtype: str) -> str | None:
    """The `descr` of a numeric dtype in a header; None if NumPy lacks the dtype, so that no header can express it."""
    kind, item = dtype.rstrip(DIGITS), ITEM_SIZE.get(dtype, 0)
    bits = dtype[len(kind) :]
    letter = next((letter for letter, name in LETTERS.items() if name == kind), None)
    if letter is None or not item or (bits and int(bits) != 8 * item):
        return None
    return f"{'|' if item == 1 else '<'}{letter}{item}"


def parse_index(text: str) -> tuple[Any, ...]:
    """The index that a person typed between brackets, in NumPy's way: `3`, `0:2,:`, `-1`, `...`.

    Raises:
        UsageError: the text is not an index.
    """
    index: list[Any] = []
    for item in text.split(","):
        item = item.strip()
        try:
            if item == "...":
                index.append(Ellipsis)
            elif ":" in item:
                index.append(slice(*(int(part) if part.strip() else None for part in item.split(":"))))
            else:
                index.append(int(item))
        except (ValueError, TypeError):
            raise UsageError(f"invalid index [{text}]", expected="a NumPy index such as [3] or [0:2,:]") from None
    return tuple(index)
