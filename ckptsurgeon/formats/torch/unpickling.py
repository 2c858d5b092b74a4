"""Interprets the pickle of a PyTorch file: only the opcodes that tensors and dictionaries need, without running code.

A pickle is a program for a small stack machine. Python's own interpreter imports and calls whatever the program names;
this interpreter knows only the opcodes in `_CODES` and the names in `records.GLOBALS`, and refuses all others, so that
even a hostile program can only build lists. It is a pure function: bytes in, records out. Its memory and time are
linear in the bytes: each opcode makes at most one object, objects are counted, keys are not hashed, and nothing recurs.

Source: `pickletools` in Python's library, which describes every opcode.
"""

from __future__ import annotations

import struct

from ...errors import DamagedError, UnsupportedError
from .records import GLOBALS, Dict, Global, Tensor, storage_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Memory of an object without its elements and text, in bytes; estimated on the high side.
_PER_OBJECT = 56
_PER_RECORD = 136
_PER_ITEM = 72  # of a dictionary: a pair and its slot
_PER_PLACE = 8
_LONGEST_NAME = 200  # characters of a module or of a global's name

# Names of refused opcodes, for the message; `_CODES` holds the accepted opcodes.
_REFUSED = {
    b"0": "POP", b"1": "POP_MARK", b"2": "DUP", b"F": "FLOAT", b"I": "INT", b"L": "LONG",
    b"P": "PERSID", b"S": "STRING", b"T": "BINSTRING", b"U": "SHORT_BINSTRING", b"V": "UNICODE", b"B": "BINBYTES",
    b"C": "SHORT_BINBYTES", b"d": "DICT", b"l": "LIST", b"g": "GET", b"i": "INST", b"o": "OBJ", b"p": "PUT",
    b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"\x8b": "LONG4", b"\x8e": "BINBYTES8", b"\x8f": "EMPTY_SET",
    b"\x90": "ADDITEMS", b"\x91": "FROZENSET", b"\x92": "NEWOBJ_EX", b"\x96": "BYTEARRAY8", b"\x97": "NEXT_BUFFER",
    b"\x98": "READONLY_BUFFER",
}  # fmt: skip


def load(data: bytes, room: int) -> object:
    """The object that a pickle describes, made of records, lists, tuples, text and numbers.

    Args:
        data: the pickle.
        room: limit on the memory of its objects, in bytes.

    Raises:
        DamagedError: the pickle is cut short, contradicts itself, or would exceed the limit.
        UnsupportedError: the pickle uses an opcode or a name that tensors do not need.
    """
    machine = _Machine(data, room)
    if data[:1] != b"\x80":
        raise DamagedError("damaged: a pickle without its protocol's number")
    if data[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise UnsupportedError("a pickle of another protocol", expected="2 to 5", found=data[1:2].hex() or "nothing")
    machine.at = 2
    code = b""
    while code != b".":
        code = data[machine.at : machine.at + 1]
        action = _CODES.get(code)
        if action is None:
            raise _unknown(code, machine.at)
        machine.code_at, machine.at = machine.at, machine.at + 1
        action(machine)
    if machine.at != len(data) or machine.marks or len(machine.stack) != 1:
        raise DamagedError("damaged: a pickle that does not end with its one object")
    return machine.stack[0]


def _unknown(code: bytes, at: int) -> DamagedError | UnsupportedError:
    if not code:
        return DamagedError("damaged: a pickle that is cut short")
    if code not in _REFUSED:
        return DamagedError(f"damaged: 0x{code.hex()} at byte {at} of the pickle is not an opcode")
    return UnsupportedError(f"opcode {_REFUSED[code]} at byte {at} of the pickle, which tensors do not need")


class _Machine:
    """The state of the interpreter.

    Attributes:
        data: the pickle.
        at: offset of the next byte.
        code_at: offset of the opcode that is being executed.
        stack: of objects.
        marks: stack heights at the open MARKs.
        memo: objects that the pickle may refer to again.
    """

    __slots__ = ("_room", "at", "code_at", "data", "marks", "memo", "stack")

    def __init__(self, data: bytes, room: int) -> None:
        self.data = data
        self.at = self.code_at = 0
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: list[object] = []
        self._room = room

    def spend(self, memory: int) -> None:
        """Count memory against the limit.

        Raises:
            DamagedError: the limit is exceeded.
        """
        self._room -= memory
        if self._room < 0:
            raise DamagedError("damaged: a pickle with far more objects than its file has room for")

    def take(self, length: int) -> bytes:
        """Take the next bytes."""
        end = self.at + length
        if end > len(self.data):
            raise DamagedError("damaged: a pickle that is cut short")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, length: int) -> int:
        """Take the next bytes as an unsigned number."""
        return int.from_bytes(self.take(length), "little")

    def push(self, value: object, memory: int = _PER_OBJECT) -> None:
        """Put a new object on the stack."""
        self.spend(memory + _PER_PLACE)
        self.stack.append(value)

    def pop(self) -> object:
        """Remove the top object from the stack, and return it."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise DamagedError(f"damaged: a pickle takes from an empty stack at byte {self.code_at}")
        return self.stack.pop()

    def top(self) -> object:
        """The top object of the stack, which is not removed."""
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[object]:
        """Take all objects above the last MARK."""
        if not self.marks:
            raise DamagedError(f"damaged: a pickle without a MARK at byte {self.code_at}")
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def tuple(self, values: list[object]) -> None:
        """Put a tuple on the stack."""
        self.push(tuple(values), _PER_OBJECT + _PER_PLACE * len(values))

    def text(self, length: int) -> None:
        """Put the next bytes on the stack, as text."""
        if length > len(self.data):
            raise DamagedError("damaged: a pickle that is cut short")
        try:
            text = self.take(length).decode()
        except UnicodeDecodeError as error:
            raise DamagedError("damaged: a string that is not UTF-8") from error
        self.push(text, _PER_OBJECT + (length if text.isascii() else 4 * length))

    def line(self) -> str:
        """Take the next bytes up to the end of the line: a part of a global's name."""
        end = self.data.find(b"\n", self.at, self.at + _LONGEST_NAME + 1)
        if end < 0:
            raise DamagedError(f"damaged: opcode GLOBAL without a name at byte {self.code_at}")
        try:
            text = self.data[self.at : end].decode()
        except UnicodeDecodeError as error:
            raise DamagedError("damaged: opcode GLOBAL whose name is not UTF-8") from error
        self.at = end + 1
        return text

    def remember(self, index: int) -> None:
        """Store the top object in the memo, under the next free index or in place of an earlier object."""
        value = self.top()
        if index > len(self.memo):
            what = "damaged: a pickle's memo with a gap"
            raise DamagedError(what, expected=f"at most {len(self.memo)}", found=index)
        if index == len(self.memo):
            self.spend(_PER_PLACE)
            self.memo.append(value)
        else:
            self.memo[index] = value

    def recall(self, index: int) -> None:
        """Put an object from the memo on the stack."""
        if index >= len(self.memo):
            raise DamagedError("damaged: a pickle refers to an object that it has not made", found=index)
        self.push(self.memo[index], 0)

    def refer(self, module: str, name: str, code: str) -> None:
        """Put a global on the stack."""
        found = GLOBALS.get(f"{module}.{name}")
        if found is None:
            whole = f"{module[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}"
            raise UnsupportedError(
                f"opcode {code} of {whole} at byte {self.code_at} of the pickle, which is not loaded"
            )
        self.push(found, 0)

    def call(self, code: str) -> None:
        """Replace a global and its arguments on the stack by the record for the call."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Global):
            raise DamagedError(f"damaged: opcode {code} of something other than a function and its arguments")
        if function.make is None:
            raise UnsupportedError(f"opcode {code} of {function.name} at byte {self.code_at} of the pickle")
        value = function.make(arguments)
        items = len(value.items) if isinstance(value, Dict) else 0
        self.push(value, _PER_RECORD + _PER_ITEM * items)

    def fill(self, values: list[object]) -> None:
        """Append to the list on top of the stack."""
        found = self.top()
        if not isinstance(found, list):
            raise DamagedError(f"damaged: a pickle appends to what is not a list at byte {self.code_at}")
        self.spend(_PER_PLACE * len(values))
        found.extend(values)

    def assign(self, values: list[object]) -> None:
        """Add alternating keys and values to the dictionary on top of the stack."""
        found = self.top()
        if not isinstance(found, Dict) or len(values) % 2:
            raise DamagedError(f"damaged: a pickle sets items of what is not a dictionary at byte {self.code_at}")
        self.spend(_PER_ITEM * (len(values) // 2))
        found.items.extend(zip(values[::2], values[1::2], strict=True))


def _mark(machine: _Machine) -> None:
    machine.spend(_PER_PLACE)
    machine.marks.append(len(machine.stack))


def _build(machine: _Machine) -> None:
    """Discard the attributes of a dictionary (`_metadata`: versions of modules) or of a tensor."""
    machine.pop()
    if not isinstance(machine.top(), Dict | Tensor):
        raise UnsupportedError(f"opcode BUILD of an unknown object at byte {machine.code_at} of the pickle")


def _setitem(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.assign([key, value])


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise DamagedError("damaged: opcode STACK_GLOBAL without a name")
    machine.refer(module, name, "STACK_GLOBAL")


def _tuple(machine: _Machine, count: int) -> None:
    values = [machine.pop() for _ in range(count)]
    machine.tuple(values[::-1])


def _frame(machine: _Machine) -> None:
    length = machine.number(8)
    if length > len(machine.data) - machine.at:
        raise DamagedError("damaged: a frame of the pickle is cut short")


def _nothing(_: _Machine) -> None:
    pass


_CODES: dict[bytes, Callable[[_Machine], None]] = {
    b".": _nothing,
    b"\x95": _frame,
    b"(": _mark,
    b"}": lambda machine: machine.push(Dict(), _PER_RECORD),
    b"]": lambda machine: machine.push([], _PER_RECORD),
    b")": lambda machine: machine.push((), 0),
    b"t": lambda machine: machine.tuple(machine.since_mark()),
    b"\x85": lambda machine: _tuple(machine, 1),
    b"\x86": lambda machine: _tuple(machine, 2),
    b"\x87": lambda machine: _tuple(machine, 3),
    b"X": lambda machine: machine.text(machine.number(4)),
    b"\x8c": lambda machine: machine.text(machine.number(1)),
    b"\x8d": lambda machine: machine.text(machine.number(8)),
    b"K": lambda machine: machine.push(machine.number(1)),
    b"M": lambda machine: machine.push(machine.number(2)),
    b"J": lambda machine: machine.push(int.from_bytes(machine.take(4), "little", signed=True)),
    b"\x8a": lambda machine: machine.push(int.from_bytes(machine.take(machine.number(1)), "little", signed=True), 320),
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),
    b"N": lambda machine: machine.push(None, 0),
    b"\x88": lambda machine: machine.push(True, 0),
    b"\x89": lambda machine: machine.push(False, 0),
    b"q": lambda machine: machine.remember(machine.number(1)),
    b"r": lambda machine: machine.remember(machine.number(4)),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"h": lambda machine: machine.recall(machine.number(1)),
    b"j": lambda machine: machine.recall(machine.number(4)),
    b"c": lambda machine: machine.refer(machine.line(), machine.line(), "GLOBAL"),
    b"\x93": _stack_global,
    b"Q": lambda machine: machine.push(storage_of(machine.pop()), _PER_RECORD),
    b"R": lambda machine: machine.call("REDUCE"),
    b"\x81": lambda machine: machine.call("NEWOBJ"),
    b"b": _build,
    b"a": lambda machine: machine.fill([machine.pop()]),
    b"e": lambda machine: machine.fill(machine.since_mark()),
    b"s": _setitem,
    b"u": lambda machine: machine.assign(machine.since_mark()),
}
