"""The objects of an object graph, in columns.

A graph of 100,000 weights has a million parts, and a hostile one as many in a mebibyte. So there is no Python object
per node or part: their contents are stored in a few long columns, and the bytes stay where they are.

Source: `tensorflow/core/protobuf/trackable_object_graph.proto`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from ....errors import DamagedError
from ...tensorflow.wire import BYTES, VARINT, bytes_field, fields, read_varint, signed64, varint_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EDGE, ATTRIBUTE, SLOT_VARIABLE, SAVER, HAS_VALUES = 1, 2, 3, 4, 5  # the fields of a TrackableObject

KERAS_2_EDGES = ("layer_with_weights-", "layer-")  # from a model to its layers; the first: only with weights
_MAX_NODES = 1 << 20  # a model of 100,000 variables and its optimizer have a third of that
_MAX_PARTS = 1 << 22

_NODE_TAG, _EDGE_TAG, _ATTRIBUTE_TAG, _SLOT_TAG = (
    number << 3 | BYTES for number in (1, EDGE, ATTRIBUTE, SLOT_VARIABLE)
)
_FLAG_TAG = HAS_VALUES << 3 | VARINT
_USUAL_TAGS = (_EDGE_TAG, _ATTRIBUTE_TAG)
_NUMBER_TAG, _NAME_TAG = 1 << 3 | VARINT, 2 << 3 | BYTES  # of an ObjectReference
_ATTRIBUTE_TAGS = _ATTRIBUTE_NAME_TAG, _FULL_NAME_TAG, _KEY_TAG = (1 << 3 | BYTES, 2 << 3 | BYTES, 3 << 3 | BYTES)

VARIABLE = "VARIABLE_VALUE"  # the name of a variable's attribute
_VARIABLE = bytes_field(1, VARIABLE.encode())  # its encoded prefix


def new_part(field: int, *values: int | str, unknown: bytes = b"") -> bytes:
    """Encode a new part of a node from the values of its fields 1, 2, …; `unknown` fields are appended unchanged."""
    message = b""
    for number, value in enumerate(values, 1):
        text = b"" if isinstance(value, int) else value.encode("utf-8", "surrogateescape")
        message += varint_field(number, value) if isinstance(value, int) else bytes_field(number, text) if text else b""
    return bytes_field(field, message + unknown)


class Objects:
    """The objects of a graph, as stored in its bytes.

    Each kind of part has its own columns, in the file's order: the edges of node n have the numbers from `first[n]` to
    `first[n + 1] - 1`.

    Args:
        data: the serialized TrackableObjectGraph.

    Raises:
        DamagedError: the bytes are not an object graph, or an edge points to a missing node.

    Attributes:
        data: as given. `tags`, `starts`, `ends`: for each node, where in it the node's field begins, its message
            begins, and both end.
        first: the number of each node's first edge; one more entry at the end.
        names, children: each edge's name, and the node to which it leads.
        keyed, attributes, keys: each attribute's node, its name, and the key of its row or, for tables and iterators,
            the prefix of its rows' keys.
        keepers, originals, slots: for each slot: the optimizer that keeps it, its variable, and the slot's own node.
        savers: the nodes that have a saver of their own.
        flagged: whether any node records if it has values.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) >= 1 << 31:
            raise DamagedError("damaged: the object graph is impossibly large")
        self.data = data
        self.tags, self.starts, self.ends = array("i"), array("i"), array("i")
        self.first, self.children = array("i"), array("i")
        self.names: list[str] = []
        self.keyed = array("i")
        self.attributes: list[str] = []
        self.keys: list[str] = []
        self._full_names = array("i")  # where each attribute's full name begins and ends
        self.keepers, self.originals, self.slots = array("i"), array("i"), array("i")
        self.savers: set[int] = set()
        self.flagged = False
        self._texts: dict[bytes, str] = {b"": ""}  # repeated names, each stored once
        self._outside: int | None = None  # a node number that is out of range
        self._indices: dict[int, dict[str, int]] = {}
        self._variables: dict[int, str] | None = None
        self._read()
        self._texts.clear()
        self.first.append(len(self.children))
        highest = max((max(each) for each in (self.children, self.originals, self.slots) if each), default=0)
        if self._outside is not None or highest >= len(self):  # a graph must have a root
            found = highest if self._outside is None else self._outside
            what = "damaged: the object graph refers to a missing node"
            raise DamagedError(what, expected=f"one of {len(self)}", found=f"node {found}")

    def __len__(self) -> int:
        return len(self.starts)

    def _read(self) -> None:
        # Most of the time for a large graph is spent here: tags and almost all lengths take one byte.
        data, end = self.data, len(self.data)
        tag, start, stop, first = self.tags.append, self.starts.append, self.ends.append, self.first.append
        children, keys, slots = self.children, self.keys, self.slots
        at = count = 0
        while at < end:
            tag_at, inner = at, at + 2
            if data[at] == _NODE_TAG and inner <= end and data[at + 1] < 0x80:
                at = inner + data[at + 1]
                if at > end:
                    raise _cut()
            else:
                number, kind, _, inner, at = _field(data, at, end)
                if number != 1 or kind != BYTES:
                    continue  # an unknown field, which is kept
            tag(tag_at)
            start(inner)
            stop(at)
            first(len(children))
            if inner < at:
                self._read_parts(count, inner, at)
            count += 1
            if count > _MAX_NODES or len(children) + len(keys) + len(slots) > _MAX_PARTS:
                raise DamagedError("damaged: the object graph has impossibly many nodes or edges")

    def _read_parts(self, node: int, at: int, end: int) -> None:
        data, texts = self.data, self._texts
        child, name = self.children.append, self.names.append
        while at < end:
            tag, start = data[at], at + 2
            if start <= end and data[at + 1] < 0x80 and tag in _USUAL_TAGS:
                at = start + data[at + 1]
                if at > end:
                    raise _cut()
            elif tag == _FLAG_TAG and start <= end and data[at + 1] < 0x80:
                self.flagged = True
                at = start
                continue
            else:
                field, kind, _, start, at = _field(data, at, end)
                if kind != BYTES and field in (EDGE, ATTRIBUTE, SLOT_VARIABLE):
                    raise DamagedError(f"damaged: field {field} of a node of the object graph is not a message")
                tag = field << 3 | kind
            if tag == _EDGE_TAG:
                # The usual encoding, a number of up to three bytes and a name, is read here; `_reference` reads others.
                number, ahead = 0, at
                if start + 4 < at and data[start] == _NUMBER_TAG:
                    number, ahead = data[start + 1], start + 2
                    if number >= 0x80:
                        number += (data[ahead] << 7) - 0x80
                        ahead += 1
                        if number >= 0x4000:
                            number += (data[ahead] << 14) - 0x4000
                            ahead = ahead + 1 if number < 0x200000 else at
                if ahead + 1 < at and data[ahead] == _NAME_TAG and ahead + 2 + data[ahead + 1] == at:
                    text = data[ahead + 2 : at]
                else:
                    number, text = _reference(data, start, at) if start < at else (0, b"")
                    number = self._within(number)
                said = texts.get(text)
                if said is None:
                    said = texts[text] = text.decode("utf-8", "surrogateescape")
                child(number)
                name(said)
            elif tag == _ATTRIBUTE_TAG:
                self._read_attribute(node, start, at)
            elif tag == _SLOT_TAG:
                self._read_slot(node, start, at)
            elif tag >> 3 == SAVER:
                self.savers.add(node)
            elif tag >> 3 == HAS_VALUES:
                self.flagged = True

    def _read_slot(self, node: int, at: int, end: int) -> None:
        original = slot = 0
        for field, kind, value, _ in fields(self.data[at:end]) if at < end else ():
            if kind == VARINT:
                original = signed64(value) if field == 1 else original
                slot = signed64(value) if field == 3 else slot
        self.keepers.append(node)
        self.originals.append(self._within(original))
        self.slots.append(self._within(slot))

    def _within(self, number: int) -> int:
        """Return a node's number, or 0 instead of an impossible one."""
        if 0 <= number < _MAX_NODES:
            return number
        self._outside = number
        return 0

    def _read_attribute(self, node: int, at: int, end: int) -> None:
        data = self.data
        name, key = "", b""
        full_start = full_end = 0
        if data.startswith(_VARIABLE, at):  # true for almost all attributes
            name = VARIABLE
            at += len(_VARIABLE)
        while at < end:
            tag, start = data[at], at + 2
            if tag in _ATTRIBUTE_TAGS and start <= end and data[at + 1] < 0x80:
                at = start + data[at + 1]
                if at > end:
                    raise _cut()
            else:
                field, kind, _, start, at = _field(data, at, end)
                tag = field << 3 | kind
            if tag == _KEY_TAG:
                key = data[start:at]
            elif tag == _FULL_NAME_TAG:
                full_start, full_end = start, at
            elif tag == _ATTRIBUTE_NAME_TAG:
                name = data[start:at].decode("utf-8", "surrogateescape")
        self.keyed.append(node)
        self.attributes.append(name)
        self.keys.append(key.decode("utf-8", "surrogateescape"))
        self._full_names.append(full_start)
        self._full_names.append(full_end)

    @property
    def variables(self) -> dict[int, str]:
        """The key of each node that is a variable."""
        if self._variables is None:
            each = zip(self.keyed, self.attributes, self.keys, strict=True)
            self._variables = {node: key for node, attribute, key in each if attribute == VARIABLE}
        return self._variables

    def full_names(self) -> Iterator[bytes]:
        """Yield the name that each attribute's variable had in the program that saved it."""
        places = iter(self._full_names)
        return (self.data[start:end] for start, end in zip(places, places, strict=True))

    def edges(self, node: int) -> zip[tuple[str, int]]:
        """Return the names of a node's edges and the nodes to which they lead."""
        start, end = self.first[node], self.first[node + 1]
        return zip(self.names[start:end], self.children[start:end], strict=True)

    def index(self, node: int) -> dict[str, int]:
        """Return the numbers of a node's edges, by name."""
        found = self._indices.get(node)
        if found is None:
            start, end = self.first[node], self.first[node + 1]
            found = self._indices[node] = dict(zip(self.names[start:end], range(start, end), strict=True))
        return found

    def child(self, node: int, name: str) -> int | None:
        """Return the node to which the edge `name` leads, or None."""
        at = self.index(node).get(name)
        return None if at is None else self.children[at]

    def named(self, names: Iterable[str]) -> dict[str, dict[int, int]]:
        """Return edges by name: name -> node that has such an edge -> node to which it leads."""
        found: dict[str, dict[int, int]] = {name: {} for name in names}
        for edge, name in enumerate(self.names):
            if name in found:
                found[name][bisect_right(self.first, edge) - 1] = self.children[edge]
        return found

    def at(self, path: Iterable[str], start: int = 0) -> int | None:
        """Return the node to which a path of edges leads, or None."""
        number: int | None = start
        for name in path:
            number = None if number is None else self.child(number, name)
        return number

    def by_key(self) -> dict[str, int]:
        """Return the node of each attribute's key; if several attributes share a key, the first one's."""
        found = dict(zip(self.keys, self.keyed, strict=True))
        if len(found) < len(self.keys):
            for key, node in zip(reversed(self.keys), reversed(self.keyed), strict=True):
                found[key] = node
        return found

    def attributes_of(self, node: int) -> range:
        """Return the numbers of a node's attributes."""
        return range(bisect_left(self.keyed, node), bisect_left(self.keyed, node + 1))

    def slots_of(self, node: int) -> range:
        """Return the numbers of the slots that a node keeps."""
        return range(bisect_left(self.keepers, node), bisect_left(self.keepers, node + 1))


class Parents:
    """Edges in reverse: from a node to its parents.

    Attributes:
        last: for each node, the number of the last edge that leads to it, or -1.
        before: for each edge, the number of the previous edge that leads to the same node, or -1.
        parent: for each edge, the node from which it leads.
    """

    def __init__(self, objects: Objects) -> None:
        count = len(objects)
        self.last = array("i", [-1]) * count
        self.before = array("i", bytes(4 * len(objects.children)))
        last, before = self.last, self.before
        for edge, child in enumerate(objects.children):
            before[edge] = last[child]
            last[child] = edge
        self.parent = array("i")
        for node in range(count):
            size = objects.first[node + 1] - objects.first[node]
            if size:
                self.parent.extend([node] * size)


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int, int, int]:
    """Read a field of a message that ends at `end`: number, wire type, value if a varint, and the content's extent."""
    tag, at = read_varint(data, at, end)
    kind, value, start = tag & 7, 0, at
    if kind == VARINT:
        value, at = read_varint(data, at, end)
    elif kind == BYTES:
        length, start = read_varint(data, at, end)
        at = start + length
    elif kind in _FIXED:
        at += _FIXED[kind]
    else:
        raise DamagedError(f"damaged: a message has a field of wire type {kind}")
    if at > end:
        raise _cut()
    if tag < 8:
        raise DamagedError("damaged: a message has a field number 0")
    return tag >> 3, kind, value, start, at


_FIXED = {1: 8, 5: 4}  # wire type -> bytes


def _reference(data: bytes, at: int, end: int) -> tuple[int, bytes]:
    """Return the number and the name in an ObjectReference that is encoded in an unusual way."""
    number, name = 0, b""
    while at < end:
        field, kind, value, start, at = _field(data, at, end)
        if field == 1 and kind == VARINT:
            number = signed64(value)
        elif field == 2 and kind == BYTES:
            name = data[start:at]
    return number, name


def _cut() -> DamagedError:
    return DamagedError("damaged: a message ends within a field")
