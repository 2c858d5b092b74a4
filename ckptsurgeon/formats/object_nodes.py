"""The objects of an object graph: their messages, and the escapes of paths in keys.

Source: `tensorflow/core/protobuf/trackable_object_graph.proto`, `tensorflow/python/trackable/trackable_utils.py`.
"""

from __future__ import annotations

from .wire import BYTES, VARINT, bytes_field, fields, signed64, varint_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    Path = tuple[str, ...]

ATTRIBUTES = "/.ATTRIBUTES/"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends the key of every variable
SLOT = "/.OPTIMIZER_SLOT/"
EDGE, ATTRIBUTE, SLOT_VARIABLE, SAVER, HAS_VALUES = 1, 2, 3, 4, 5  # the fields of a TrackableObject

KERAS_2_EDGES = ("layer_with_weights-", "layer-")  # of a model, to each layer; the first counts those with weights
_MAX_DEPTH = 255  # edges on a path that is followed


def escape(name: str) -> str:
    """The name of an edge as keys spell it."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(name: str) -> str:
    """The name of the edge that a part of a key spells: `..` is a dot, `.S` a slash."""
    return ".".join(part.replace(".S", "/") for part in name.split(".."))


def path_of(key: str) -> Path | None:
    """The edges that lead to a key's node by its own word; None for a slot's key, or one that is no object's."""
    path, found, _ = key.rpartition(ATTRIBUTES)
    names = path.split("/")
    return None if not found or SLOT in key or len(names) > _MAX_DEPTH else tuple(map(unescape, names))


class Part:
    """A field of a node, and what it says.

    Attributes:
        field: EDGE, ATTRIBUTE, SLOT_VARIABLE, another one's number, or 0 for what was taken away.
        raw: its bytes, tag included.
        node: the child; the slot. `original`: the variable that has the slot.
        name: of the edge, the attribute or the slot. `full_name`: of the variable in its program.
        key: of the attribute's row, or, for tables and iterators, how the keys of its rows begin.
    """

    __slots__ = ("field", "full_name", "key", "name", "node", "original", "raw")

    def __init__(self, field: int, raw: bytes = b"", message: bytes = b"") -> None:
        self.field = field
        self.raw = raw
        self.node = self.original = 0
        self.name = self.full_name = self.key = ""
        for number, kind, value, _ in fields(message):
            said = _SAID.get((field, number, kind))
            if said is not None:
                setattr(self, said, signed64(value) if kind == VARINT else value.decode("utf-8", "surrogateescape"))


_SAID = {
    (EDGE, 1, VARINT): "node", (EDGE, 2, BYTES): "name",
    (ATTRIBUTE, 1, BYTES): "name", (ATTRIBUTE, 2, BYTES): "full_name", (ATTRIBUTE, 3, BYTES): "key",
    (SLOT_VARIABLE, 1, VARINT): "original", (SLOT_VARIABLE, 2, BYTES): "name", (SLOT_VARIABLE, 3, VARINT): "node",
}  # fmt: skip


def new_part(field: int, *values: int | str, unknown: bytes = b"") -> Part:
    """A new part of the values of its fields 1, 2, …; `unknown` fields are carried."""
    message = b""
    for number, value in enumerate(values, 1):
        text = b"" if isinstance(value, int) else value.encode("utf-8", "surrogateescape")
        message += varint_field(number, value) if isinstance(value, int) else bytes_field(number, text) if text else b""
    return Part(field, bytes_field(field, message + unknown), message)


class Node:
    """An object: its parts in the file's order, and its bytes, or None once it was edited."""

    __slots__ = ("_index", "parts", "raw")

    def __init__(self, parts: list[Part], raw: bytes | None = None) -> None:
        self.parts = parts
        self.raw = raw
        self._index: dict[str, int] | None = None

    def all(self, field: int) -> list[Part]:
        """The parts of one kind."""
        return [part for part in self.parts if part.field == field]

    def child(self, name: str) -> int | None:
        """The node to which the edge `name` leads."""
        if self._index is None:
            self._index = {part.name: part.node for part in self.all(EDGE)}
        return self._index.get(name)

    def edit(self, parts: list[Part] | None = None) -> list[Part]:
        """Its parts, or other ones instead, that are about to change."""
        self.raw = self._index = None
        self.parts = self.parts if parts is None else parts
        return self.parts

    def link(self, name: str, number: int, at: int | None = None) -> None:
        """Make an edge, in the place of a part or at the end."""
        self.raw = None
        edge = new_part(EDGE, number, name)
        if at is None:
            self.parts.append(edge)
        else:
            self.parts[at] = edge
        if self._index is not None:
            self._index[name] = number
