r"""Reads the header of a NumPy array file (.npy), without NumPy and without evaluating anything; `plain` writes it.

    \x93NUMPY, version (2 bytes), length of the text (2 bytes; from version 2 on 4), text, values

The text is a Python literal: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }. Source: the documentation of
`numpy.lib.format`.
"""

from __future__ import annotations

import re

from ...errors import DamagedError
from ...plain import LETTERS, MAGIC
from ..tensorflow.tensors import MAX_RANK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONGEST = 10_000  # bytes of text, the limit that NumPy itself sets
START = 12  # bytes before the text, at most
_DEEPEST = 16
_DESCR = re.compile(r"([<>=|]?)([?bBiufcSaUVOmM])([0-9]{0,18})(\[[^\]]{1,40}\])?")
_TOKEN = re.compile(r"""\s*(?:([\[\](){},:])|(True|False|None)\b|(-?[0-9]{1,20})L?\b|'([^'\\]*)'|"([^"\\]*)")""")


class ArrayForm:
    """How an array is stored.

    Attributes:
        dtype: as `Variable.dtype`; `object` for pickled Python objects, and NumPy's own names for dtypes that only
            NumPy has: `void16`, `datetime64[s]`.
        shape: of the array.
        order: `<`, `>`, or `|` for single bytes.
        letter: NumPy's letter for the kind of dtype; `V` for records.
        item: bytes per element; 0 for objects.
        fortran: whether the first dimension varies fastest.
        start: bytes before the values.
    """

    __slots__ = ("dtype", "fortran", "item", "letter", "order", "shape", "start")

    def __init__(self, text: str, start: int) -> None:
        described = _parse(text)
        if not isinstance(described, dict) or described.keys() != {"descr", "fortran_order", "shape"}:
            raise DamagedError("damaged: an array header without its three fields", found=text[:80])
        shape, fortran = described["shape"], described["fortran_order"]
        if not isinstance(shape, tuple) or not all(type(each) is int and each >= 0 for each in shape):
            raise DamagedError("damaged: impossible shape", found=str(shape)[:80])
        if not isinstance(fortran, bool):
            raise DamagedError("damaged: neither C order nor Fortran order", found=str(fortran)[:80])
        self.shape: tuple[int, ...] = shape
        self.fortran = fortran
        self.start = start
        descr = described["descr"]
        if isinstance(descr, str):
            self.order, self.letter, self.item, self.dtype = _simple(descr)
        else:
            self.item = _record(descr)
            self.order, self.letter, self.dtype = "|", "V", f"void{8 * self.item}"
        largest = max(self.item, 1)
        for dimension in shape:
            largest *= dimension or 1
        if len(shape) > MAX_RANK or largest >> 63:
            raise DamagedError("damaged: impossible shape", found=str(shape)[:80])

    @property
    def runs_backwards(self) -> bool:
        """Whether the array is in Fortran order and differs from the same array in C order."""
        return self.fortran and sum(each != 1 for each in self.shape) > 1 and 0 not in self.shape

    @property
    def values(self) -> int | None:
        """Size of the values in bytes; None for pickled objects, whose size is unknown."""
        if self.letter == "O":
            return None
        size = self.item
        for dimension in self.shape:
            size *= dimension
        return size


def parse(head: bytes) -> ArrayForm | None:
    """Parse the header of an array file, given its first START + LONGEST bytes, or all its bytes if it is shorter.

    Returns:
        None if the file is not an array.

    Raises:
        DamagedError: the header is cut short, too long, or contradicts itself.
    """
    if not head.startswith(MAGIC):
        return None
    version, width = head[6:8], 2 if head[6:7] == b"\x01" else 4
    if version not in (b"\x01\0", b"\x02\0", b"\x03\0"):
        found = ".".join(map(str, version)) or "nothing"
        raise DamagedError("damaged: unknown .npy version", expected="1.0 to 3.0", found=found)
    start = 8 + width
    length = int.from_bytes(head[8:start], "little")
    if length > LONGEST:
        raise DamagedError("damaged: the array header is too long", expected=f"at most {LONGEST} bytes", found=length)
    if len(head) < start + length:
        raise DamagedError("cut short within an array header", expected=f"{start + length} bytes", found=len(head))
    try:
        text = head[start : start + length].decode("utf-8" if version == b"\x03\0" else "latin-1")
    except UnicodeDecodeError as error:
        raise DamagedError("damaged: an array header is not valid text") from error
    return ArrayForm(text, start + length)


def _simple(descr: str) -> tuple[str, str, int, str]:
    """Parse the `descr` of a dtype that is not a record: byte order, letter, bytes per element, name."""
    match = _DESCR.fullmatch(descr)
    if match is None:
        raise DamagedError("damaged: unknown array dtype", found=descr[:40])
    order, letter, digits, unit = match.groups()
    size = int(digits or 0)
    if letter in "?B" or (letter == "b" and not digits):
        letter, size = {"?": ("b", 1), "B": ("u", 1), "b": ("i", 1)}[letter]
    if unit and letter not in "mM":
        raise DamagedError("damaged: unknown array dtype", found=descr[:40])
    if letter in "Sa":
        return "|", "S", size, "string"
    if letter == "U":
        return ">" if order == ">" else "<", "U", 4 * size, "string"
    if letter == "O":
        return "|", "O", 0, "object"
    if letter == "V":
        return "|", "V", size, f"void{8 * size}"
    order = "|" if size == 1 else ">" if order == ">" else "<"
    if letter in "mM":
        if size != 8:
            raise DamagedError("damaged: unknown array dtype", found=descr[:40])
        return order, letter, size, f"{'datetime64' if letter == 'M' else 'timedelta64'}{unit or ''}"
    if size not in {"b": (1,), "f": (1, 2, 4, 8, 12, 16), "c": (8, 16, 24, 32)}.get(letter, (1, 2, 4, 8)):
        raise DamagedError("damaged: unknown array dtype", found=descr[:40])
    if letter == "f" and size == 1:
        return order, letter, size, "float8_e5m2"  # the only dtype of ml_dtypes that NumPy writes this way
    return order, letter, size, "bool" if letter == "b" else f"{LETTERS[letter]}{8 * size}"


def _record(descr: Any) -> int:
    """Size of a record in bytes; the nesting of the text bounds that of the record."""
    if not isinstance(descr, list) or not descr:
        raise DamagedError("damaged: unknown array dtype", found=str(descr)[:40])
    total = 0
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise DamagedError("damaged: unknown field of a record", found=str(field)[:40])
        item = _simple(field[1])[2] if isinstance(field[1], str) else _record(field[1])
        if isinstance(field[1], str) and field[1].endswith("O"):
            raise DamagedError("records of Python objects, which are pickled and never loaded", found=str(field)[:40])
        repeats = field[2] if len(field) == 3 else ()
        for count in (repeats,) if isinstance(repeats, int) else repeats:
            if type(count) is not int or not 0 <= count < 1 << 31:
                raise DamagedError("damaged: unknown field of a record", found=str(field)[:40])
            item = min(item * count, 1 << 63)
        total += item
    return min(total, 1 << 63)


def _parse(text: str) -> Any:
    """The value of a Python literal of dicts, lists, tuples, strings, integers and booleans."""
    stack: list[tuple[str, list[Any]]] = [("", [])]
    at, comma = 0, True
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None:
            raise DamagedError("damaged: invalid array header", found=text[at : at + 40])
        at = token.end()
        mark, word, number = token[1], token[2], token[3]
        items = stack[-1][1]
        if mark and mark in "([{":
            stack.append((mark, []))
            if len(stack) > _DEEPEST or not comma:
                raise DamagedError("damaged: invalid array header", found=text[:80])
            comma = True
            continue
        if mark and mark in ",:":
            if comma or len(stack) == 1 or (mark == ":") != (stack[-1][0] == "{" and len(items) % 2 == 1):
                raise DamagedError("damaged: invalid array header", found=text[:80])
            comma = True
            continue
        if mark:
            opened, items = stack.pop()
            value = _closed(opened + mark, items, comma)
            if not stack or (items and comma and opened == "{" and len(items) % 2):
                raise DamagedError("damaged: invalid array header", found=text[:80])
            stack[-1][1].append(value)
        else:
            if not comma:
                raise DamagedError("damaged: invalid array header", found=text[:80])
            value = {"True": True, "False": False, "None": None}[word] if word else None
            if number:
                value = int(number)
            elif not word:
                value = token[4] if token[4] is not None else token[5]
            items.append(value)
        comma = False
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise DamagedError("damaged: invalid array header", found=text[:80])
    return stack[0][1][0]


def _closed(brackets: str, items: list[Any], comma: bool) -> Any:
    """Make a list, tuple or dict of the items between two brackets."""
    if brackets == "[]":
        return items
    if brackets == "()":
        return tuple(items) if comma or len(items) != 1 else items[0]
    keys = items[::2]
    if brackets != "{}" or len(items) % 2 or not all(isinstance(key, str) for key in keys):
        raise DamagedError("damaged: invalid array header")
    if len(set(keys)) != len(keys):
        raise DamagedError("damaged: an array header repeats a field")
    return dict(zip(keys, items[1::2], strict=True))
