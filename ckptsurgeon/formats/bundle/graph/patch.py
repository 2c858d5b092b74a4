"""Pending changes to an object graph: edges to remove and add, and the bytes that result."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from io import BytesIO

from ...tensorflow.wire import bytes_field, fields, varint_field
from .nodes import ATTRIBUTE, EDGE, HAS_VALUES, KERAS_2_EDGES, SLOT_VARIABLE, Parents, new_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .nodes import Objects
    from .paths import Path

_KEY = 3  # the field of a SerializedTensor


class Patch:
    """Changes to the objects of a graph; the `Objects` themselves are not modified.

    Args:
        objects: to change.

    Attributes:
        objects: as given.
        keys: old key of an attribute -> its new key, or None for an attribute to remove.
        gone_edges, gone_slots: for each edge and slot, whether it is removed.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.keys: dict[str, str | None] = {}
        self.gone_edges = bytearray(len(objects.children))
        self.gone_slots = bytearray(len(objects.slots))
        self._count = len(objects)
        self._own = bytearray(len(objects))
        for column in (objects.keyed, objects.keepers, objects.savers):
            for node in column:
                self._own[node] = 1
        self._links: dict[int, dict[str, tuple[int, int]]] = {}  # node -> name -> child, edge that it replaces
        self._more: dict[int, list[bytes]] = {}  # new parts of nodes other than edges
        self._pairs: dict[int, dict[int, list[int]]] = {}  # Keras 2 model -> layer -> edges

    def child(self, node: int, name: str) -> int | None:
        """Return the node to which an edge will lead, or None."""
        link = self._links.get(node, {}).get(name)
        if link is not None:
            return link[0]
        edge = self.objects.index(node).get(name) if node < len(self.objects) else None
        return None if edge is None or self.gone_edges[edge] else self.objects.children[edge]

    def at(self, path: Path) -> int | None:
        """Return the node to which a path will lead, or None."""
        number: int | None = 0
        for name in path:
            number = None if number is None else self.child(number, name)
        return number

    def children(self, node: int) -> Iterator[int]:
        """Yield the nodes to which a node's edges will lead."""
        if node < len(self.objects):
            for edge in range(self.objects.first[node], self.objects.first[node + 1]):
                if not self.gone_edges[edge]:
                    yield self.objects.children[edge]
        for child, _ in self._links.get(node, {}).values():
            yield child

    def has_own(self, node: int) -> bool:
        """Return whether a node had rows, slots or a saver, or will have some."""
        return node in self._more or (node < len(self._own) and bool(self._own[node]))

    def new_node(self) -> int:
        """Add an empty node and return its number."""
        self._count += 1
        return self._count - 1

    def append(self, node: int, part: bytes) -> None:
        """Add a part other than an edge to a node."""
        self._more.setdefault(node, []).append(part)

    def link(self, parent: int, name: str, child: int, place: int = -1) -> None:
        """Make an edge, in the place of a removed one, or at the end."""
        self._links.setdefault(parent, {})[name] = child, place

    def make(self, path: Path) -> int:
        """Return the node at the end of a path; missing nodes are created."""
        number = 0
        for name in path:
            child = self.child(number, name)
            if child is None:
                child = self.new_node()
                self.link(number, name, child)
            number = child
        return number

    def take(self, parent: int, name: str) -> tuple[int, list[str]]:
        """Remove an edge; for one of the two edges to a Keras 2 layer, also the other one.

        Returns:
            The number of the edge, or -1, and the names of the other edges removed.
        """
        objects, links, last = self.objects, self._links.get(parent, {}), -1
        child, seconds = self.child(parent, name), []
        links.pop(name, None)
        if parent < len(objects) and name in objects.index(parent):
            index, start, end = objects.index(parent), objects.first[parent], objects.first[parent + 1]
            last = index[name]
            same = [last] if len(index) == end - start else range(start, end)  # a hostile graph may repeat names
            for edge in same:
                if objects.names[edge] == name:
                    self.gone_edges[edge] = 1
        if child is not None and name.startswith(KERAS_2_EDGES):
            for edge in self._pair(parent).get(child, ()):
                if not self.gone_edges[edge]:
                    self.gone_edges[edge] = 1
                    seconds.append(objects.names[edge])
        return last, seconds

    def _pair(self, parent: int) -> dict[int, list[int]]:
        """Return the edges from a Keras 2 model to its layers, by layer."""
        found = self._pairs.get(parent)
        if found is None:
            found = self._pairs[parent] = {}
            first = self.objects.first
            for edge in range(first[parent], first[parent + 1]) if parent < len(self.objects) else ():
                if self.objects.names[edge].startswith(KERAS_2_EDGES):
                    found.setdefault(self.objects.children[edge], []).append(edge)
        return found

    def encode(self) -> bytes:
        """Return the bytes of the graph with all changes; true has_checkpoint_values flags are recomputed."""
        objects = self.objects
        before, now = self._with_values() if objects.flagged else (b"", b"")
        touched = bytearray(self._count)
        for edge in _marked(self.gone_edges):
            touched[bisect_right(objects.first, edge) - 1] = 1
        for number in _marked(self.gone_slots):
            touched[objects.keepers[number]] = 1
        for node, key in zip(objects.keyed, objects.keys, strict=True) if self.keys else ():
            if key in self.keys:
                touched[node] = 1
        for node in (*self._links, *self._more):
            touched[node] = 1
        for node in range(len(before)) if before != now[: len(before)] else ():
            if before[node] != now[node]:
                touched[node] = 1
        out, at, view = BytesIO(), 0, memoryview(objects.data)
        for node in _marked(touched[: len(objects)]):
            out.write(view[at : objects.tags[node]])
            flag = _flag(now[node]) if now and before[node] != now[node] else None
            out.write(bytes_field(1, self._rewritten(node, flag)))
            at = objects.ends[node]
        out.write(view[at:])
        for node in range(len(objects), self._count):
            out.write(bytes_field(1, self._appended(node) + (_flag(now[node]) if now else b"")))
        return out.getvalue()

    def _rewritten(self, node: int, flag: bytes | None) -> bytes:
        objects, out = self.objects, bytearray()
        places = {place: (name, child) for name, (child, place) in self._links.get(node, {}).items() if place >= 0}
        edge, attribute, slot = (
            objects.first[node], bisect_left(objects.keyed, node), bisect_left(objects.keepers, node)
        )  # fmt: skip
        for field, _, value, raw in fields(objects.data[objects.starts[node] : objects.ends[node]]):
            if field == EDGE:
                if edge in places:
                    out += new_part(EDGE, places[edge][1], places[edge][0])
                elif not self.gone_edges[edge]:
                    out += raw
                edge += 1
            elif field == ATTRIBUTE:
                old = objects.keys[attribute]
                key = self.keys.get(old, old)
                if key is not None:
                    out += raw if key == old else _rekeyed(value, key)
                attribute += 1
            elif field == SLOT_VARIABLE:
                out += b"" if self.gone_slots[slot] else raw
                slot += 1
            else:
                out += raw if flag is None or field != HAS_VALUES else flag
        return bytes(out) + self._appended(node)

    def _appended(self, node: int) -> bytes:
        links = self._links.get(node, {}).items()
        edges = b"".join(new_part(EDGE, child, name) for name, (child, place) in links if place < 0)
        return edges + b"".join(self._more.get(node, ()))

    def _with_values(self) -> tuple[bytearray, bytearray]:
        """Return the true value of has_checkpoint_values for each node, before and after the changes.

        By TensorFlow's rule, it is true for an object that has values or slots, or that leads to such an object.
        """
        objects = self.objects
        parents = Parents(objects)
        before = bytearray(self._own)
        spread(before, parents)
        now = bytearray(self._count)
        for node, key in zip(objects.keyed, objects.keys, strict=True):
            if self.keys.get(key, key) is not None:
                now[node] = 1
        for number, keeper in enumerate(objects.keepers):
            if not self.gone_slots[number]:
                now[keeper] = 1
        for node in (*objects.savers, *self._more):
            now[node] = 1
        added: dict[int, list[int]] = {}
        for parent, links in self._links.items():
            for child, _ in links.values():
                added.setdefault(child, []).append(parent)
        spread(now, parents, self.gone_edges, added)
        return before, now


def spread(
    found: bytearray, parents: Parents, gone: bytearray | None = None, added: Mapping[int, Iterable[int]] | None = None
) -> None:
    """Mark all nodes from which a marked node can be reached; ignores `gone` edges, follows `added` ones as well."""
    last, before, parent_of = parents.last, parents.before, parents.parent
    waiting = array("i", _marked(found))
    while waiting:
        node = waiting.pop()
        edge = last[node] if node < len(last) else -1
        while edge >= 0:
            parent = parent_of[edge]
            if not found[parent] and not (gone and gone[edge]):
                found[parent] = 1
                waiting.append(parent)
            edge = before[edge]
        for parent in added.get(node, ()) if added else ():
            if not found[parent]:
                found[parent] = 1
                waiting.append(parent)


def _marked(marks: bytearray) -> Iterator[int]:
    """Yield the numbers of the marked nodes."""
    at = marks.find(1)
    while at >= 0:
        yield at
        at = marks.find(1, at + 1)


def _rekeyed(attribute: bytes, key: str) -> bytes:
    """Return an attribute with another key and otherwise unchanged."""
    new = bytes_field(_KEY, key.encode("utf-8", "surrogateescape"))
    return bytes_field(ATTRIBUTE, b"".join(new if number == _KEY else raw for number, _, _, raw in fields(attribute)))


def _flag(value: int) -> bytes:
    return bytes_field(HAS_VALUES, varint_field(1, value))
