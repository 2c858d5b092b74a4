"""The object graph of TensorFlow 2's checkpoints: read, and kept true while rows are renamed, dropped and added.

The string `_CHECKPOINTABLE_OBJECT_GRAPH` holds objects, named edges between them, and the keys of each object's rows.
TensorFlow restores by walking edges by name from object 0, and reads the rows whose keys the objects' attributes say,
wherever these seem to lead. So an edit must keep three things together: a row, its attribute, and the edges to its
object. One that is reached but has lost its attribute is silently restored as nothing.

    TrackableObjectGraph   1 nodes
    TrackableObject        1 children, 2 attributes, 3 slot_variables, 4 registered_saver, 5 has_checkpoint_values
    ObjectReference        1 node_id, 2 local_name
    SerializedTensor       1 name, 2 full_name, 3 checkpoint_key
    SlotVariableReference  1 original_variable_node_id, 2 slot_name, 3 slot_variable_node_id

Source: `tensorflow/core/protobuf/trackable_object_graph.proto`; edits were tried on TensorFlow 2.21. Bytes of keys
that are no UTF-8 come as lone surrogates.
"""

from __future__ import annotations

from collections import Counter

from ..errors import CkptSurgeonError, DamagedError, RefusedError, check
from . import object_layers
from .object_nodes import (
    ATTRIBUTE,
    ATTRIBUTES,
    EDGE,
    HAS_VALUES,
    KERAS_2_EDGES,
    SAVER,
    SLOT,
    SLOT_VARIABLE,
    VALUE,
    Node,
    Part,
    new_part,
    path_of,
    unescape,
)
from .wire import BYTES, bytes_field, fields, varint_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    from .object_nodes import Path

    Argument = TypeVar("Argument")

_MAX_NODES = 1 << 20  # a model of 100,000 variables has a third of that, its optimizer included
_MAX_PARTS = 1 << 22
_TABLE_ROWS = ("-keys", "-values")  # what a table's two rows add to the key that its attribute holds


class Graph:
    """An object graph.

    Args:
        data: the serialized TrackableObjectGraph.

    Raises:
        DamagedError: it is none, or refers to a node that it has not.

    Attributes:
        nodes: by number; 0 is the root. There may be cycles.
    """

    def __init__(self, data: bytes) -> None:
        self.nodes: list[Node] = []
        self._unknown: dict[int, bytes] = {}  # number of nodes that stand before it -> bytes that are carried
        count, lowest, highest = 0, 0, 0
        for number, kind, value, raw in fields(data):
            if number != 1 or kind != BYTES:
                self._unknown[len(self.nodes)] = self._unknown.get(len(self.nodes), b"") + raw
                continue
            parts: list[Part] = []
            for field, inner_kind, message, inner in fields(value):
                known = field in (EDGE, ATTRIBUTE, SLOT_VARIABLE)
                if known and inner_kind != BYTES:
                    raise DamagedError(f"damaged: field {field} of a node of the object graph is no message")
                part = Part(field, inner, message if known else b"")
                parts.append(part)
                lowest = min(lowest, part.node, part.original)
                highest = max(highest, part.node, part.original)
            count += len(parts)
            self.nodes.append(Node(parts, raw))
            if len(self.nodes) > _MAX_NODES or count > _MAX_PARTS:
                raise DamagedError("damaged: the object graph has impossibly many nodes or edges")
        if lowest < 0 or highest >= len(self.nodes):
            what = "damaged: the object graph refers to a node that it has not"
            raise DamagedError(what, expected=f"one of {len(self.nodes)}", found=f"node {lowest or highest}")

    def encode(self) -> bytes:
        """The graph's bytes; where nothing was edited, those that were read."""
        out = []
        for number, node in enumerate(self.nodes):
            out.append(self._unknown.get(number, b""))
            out.append(bytes_field(1, b"".join(p.raw for p in node.parts)) if node.raw is None else node.raw)
        return b"".join(out) + self._unknown.get(len(self.nodes), b"")

    def keys(self) -> dict[str, int]:
        """The node to which each attribute's key belongs; where several have one key, the first."""
        found: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            for attribute in node.all(ATTRIBUTE):
                found.setdefault(attribute.key, number)
        return found

    def full_names(self) -> dict[str, str]:
        """The names that variables had in their program, by key; they are neither unique nor always there."""
        return {part.key: part.full_name for node in self.nodes for part in node.all(ATTRIBUTE) if part.full_name}

    def at(self, path: Path, start: int = 0) -> int | None:
        """The node to which a path of edges leads, or None."""
        number: int | None = start if self.nodes else None
        for name in path:
            number = None if number is None else self.nodes[number].child(name)
        return number

    def slot_owners(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, str]:
        """Slot's key -> its variable's key; see `object_layers.slot_owners`."""
        return object_layers.slot_owners(self, shapes)

    def layers(self, keys: Iterable[str]) -> dict[str, dict[str, int]]:
        """Scheme -> key -> number of the layer; see `object_layers.layers`."""
        return object_layers.layers(self, keys)

    def rename(self, changes: Mapping[str, str]) -> None:
        """Give rows new keys (old -> new), whose paths then lead to the same objects, and the old ones no longer.

        Where all rows below an edge move together, the edge itself moves, and the object stays as it is. A slot's
        key is changed alone; a row that is not in the graph is passed over.

        Raises:
            RefusedError: a key loses its end, is there already, or another object has its path. Nothing was changed.
        """
        self._edit(_rename, changes)

    def drop(self, rows: Iterable[str]) -> None:
        """Forget rows: their attributes, all edges to their objects, and that they have slots or are some.

        Raises:
            RefusedError: one of a table's rows would stay, or the slot of a variable that goes. Nothing was changed.
        """
        self._edit(_drop, dict.fromkeys(rows))

    def add(self, variables: Mapping[str, str]) -> None:
        """Add variables (key -> full name, which may be empty), and the objects along their paths.

        Raises:
            RefusedError: a path leads to a variable already, or a key is no variable's. Nothing was changed.
        """
        self._edit(_add, variables)

    def _edit(self, change: Callable[[Graph, Argument], None], argument: Argument) -> None:
        """Make a change, or none at all; has_checkpoint_values stays as true as it was."""
        before, truth = self.nodes, self._with_values()
        self.nodes = [Node(list(node.parts), node.raw) for node in before]
        try:
            change(self, argument)
        except CkptSurgeonError:
            self.nodes = before
            raise
        now = self._with_values()
        flagged = any(node.all(HAS_VALUES) for node in before)
        for number, node in enumerate(self.nodes):
            flag = Part(HAS_VALUES, bytes_field(HAS_VALUES, varint_field(1, int(number in now))))
            if number >= len(before) and flagged:
                node.edit().append(flag)
            elif number < len(before) and (number in truth) != (number in now):
                node.edit([flag if part.field == HAS_VALUES else part for part in node.parts])

    def _with_values(self) -> set[int]:
        """The nodes whose has_checkpoint_values is to be true, as TensorFlow counts: values, slots, or such below."""
        parents: dict[int, list[int]] = {}
        found: set[int] = set()
        for number, node in enumerate(self.nodes):
            for part in node.parts:
                if part.field == EDGE:
                    parents.setdefault(part.node, []).append(number)
                elif part.field in (ATTRIBUTE, SLOT_VARIABLE, SAVER):
                    found.add(number)
        waiting = list(found)
        while waiting:
            fresh = set(parents.pop(waiting.pop(), ())) - found
            found |= fresh
            waiting += fresh
        return found


def attribute_key(row: str, keys: Mapping[str, int]) -> str | None:
    """The key of the attribute that names a row: the row's own, or, for tables and iterators, how that begins."""
    start = row.rfind(ATTRIBUTES) + len(ATTRIBUTES)
    ends = [len(row), *(end for end in range(len(row) - 1, start, -1) if row[end] in "-_")]
    return next((row[:end] for end in ends if row[:end] in keys), None)


def _torn(rows: Iterable[str], keys: Mapping[str, int]) -> list[CkptSurgeonError]:
    """A problem for each table of which one row is named without the other."""
    count = Counter(row.removesuffix(end) for row in rows for end in _TABLE_ROWS if row.endswith(end))
    torn = [[key + end for end in _TABLE_ROWS] for key in count if key in keys and count[key] < 2]
    return [RefusedError(f"{' and '.join(both)} are one table", hint="name both") for both in torn]


def _rename(graph: Graph, changes: Mapping[str, str]) -> None:
    keys = graph.keys()
    problems = _torn(changes, keys)
    moved: dict[str, str] = {}  # by the keys of attributes
    for old, new in changes.items():
        key = attribute_key(old, keys)
        if key is None or new == old:
            continue
        path, _, end = old.rpartition(ATTRIBUTES)
        new_path, _, new_end = new.rpartition(ATTRIBUTES)
        if end != new_end or (SLOT in old) != (SLOT in new) or not path or not new_path:
            problems.append(RefusedError(f"{old} cannot become {new}", expected=f"a path before {old[len(path) :]}"))
        elif moved.setdefault(key, new_path + key[len(path) :]) != new_path + key[len(path) :]:
            problems.append(RefusedError(f"the rows of {key} can only be renamed together"))
    targets = Counter(moved.values())
    taken = [new for new, count in targets.items() if count > 1 or (new in keys and new not in moved)]
    check(problems + [RefusedError(f"{new} cannot be the name of two variables") for new in taken])
    _lead(graph, _moves(graph, keys, moved), moved)
    for node in graph.nodes:
        for at, part in enumerate(node.parts):
            if part.field == ATTRIBUTE and part.key in moved:
                unknown = b"".join(raw for field, _, _, raw in fields(next(fields(part.raw))[2]) if field > 3)
                node.edit()[at] = new_part(ATTRIBUTE, part.name, part.full_name, moved[part.key], unknown=unknown)


def _moves(graph: Graph, keys: Mapping[str, int], moved: Mapping[str, str]) -> dict[tuple[Path, Path], int]:
    """The edges to move for keys to be paths again, each as near to the root as all keys below it move alike.

    Returns:
        The path that ends in the edge, empty if there is none yet, and its new path -> the node to which it leads.
    """
    paths = [(key, path_of(key), path_of(new)) for key, new in moved.items()]
    below = Counter(path[:end] for path in map(path_of, keys) if path for end in range(1, len(path) + 1))
    together = Counter(head for _, old, new in paths for head in _heads(old, new))
    moves: dict[tuple[Path, Path], int] = {}
    for key, old, new in paths:
        if old is None or new is None or old == new:
            continue
        leads = graph.at(old) == keys[key]
        for head, new_head in _heads(old, new):
            if below[head] == together[head, new_head] and (leads or head == old):
                node = graph.at(head) if leads else None
                there = graph.at(new_head)
                if there in (None, node, keys[key] if head == old else None) or _is_free(graph, there, moved):
                    moves[head if leads else (), new_head] = keys[key] if node is None else node
                    break
        else:
            stays = "another object has its path" if below[old] == 1 else f"others below {'/'.join(old)} stay"
            raise RefusedError(f"{key} cannot become {moved[key]}: {stays}")
    return moves


def _heads(old: Path | None, new: Path | None) -> list[tuple[Path, Path]]:
    """The beginnings of two paths after which they are alike, the shortest first; the root cannot be moved."""
    alike = 0
    if not old or not new:
        return []
    while alike < min(len(old), len(new)) - 1 and old[-1 - alike] == new[-1 - alike]:
        alike += 1
    return [(old[: len(old) - end], new[: len(new) - end]) for end in range(alike, -1, -1)]


def _is_free(graph: Graph, start: int | None, leaving: Mapping[str, str]) -> bool:
    """Whether nothing lies below a node but what leaves it."""
    seen = {start}
    waiting = [] if start is None else [start]
    while waiting:
        for part in graph.nodes[waiting.pop()].parts:
            if part.field in (SLOT_VARIABLE, SAVER) or (part.field == ATTRIBUTE and part.key not in leaving):
                return False
            if part.field == EDGE and part.node not in seen:
                seen.add(part.node)
                waiting.append(part.node)
    return True


def _lead(graph: Graph, moves: Mapping[tuple[Path, Path], int], moved: Mapping[str, str]) -> None:
    """Take edges away where paths end that move, and make the new ones.

    The two edges of a Keras 2 layer go together: whoever comes to its place gets both, so that no program finds two
    different layers under the two names of one of its own.
    """
    places = {head: (graph.at(head[:-1]) or 0, head[-1]) for head, _ in moves if head}
    taken: dict[int, set[str]] = {}
    for parent, name in places.values():
        taken.setdefault(parent, set()).add(name)
    holes: dict[tuple[int, str], int] = {}  # the place of an edge -> its position among the parts
    seconds: dict[tuple[int, str], list[str]] = {}
    for parent, names in taken.items():
        _take(graph, parent, names, holes, seconds)
    for (head, new_head), number in sorted(moves.items(), key=lambda move: len(move[0][1])):
        place = parent, name = _make(graph, new_head[:-1]), new_head[-1]
        there = graph.nodes[parent].child(name)
        if there is not None:
            if there != number and not _is_free(graph, there, moved):
                raise RefusedError(f"{'/'.join(new_head)}: another object has this path")
            _take(graph, parent, {name}, holes, seconds)
        hole = holes.pop(places[head], None) if head and places[head][0] == parent else None
        graph.nodes[parent].link(name, number, hole)  # in its old place: the order of layers is theirs
        for second in seconds.get(place, ()):
            graph.nodes[parent].link(second, number)


def _take(
    graph: Graph,
    parent: int,
    names: set[str],
    holes: dict[tuple[int, str], int],
    seconds: dict[tuple[int, str], list[str]],
) -> None:
    """Take edges away from a node, and the second ones of layers with them; note where and which they were."""
    parts = graph.nodes[parent].edit()
    keras = {part for part in parts if part.field == EDGE and part.name.startswith(KERAS_2_EDGES)}
    firsts = {part.node: part.name for part in keras if part.name in names}
    for at, part in enumerate(parts):
        if part.field == EDGE and part.name in names:
            holes[parent, part.name] = at
            parts[at] = Part(0)
        elif part in keras and part.node in firsts:
            seconds.setdefault((parent, firsts[part.node]), []).append(part.name)
            parts[at] = Part(0)


def _make(graph: Graph, path: Path) -> int:
    """The node at the end of a path, made if there is none."""
    number = 0
    for name in path:
        child = graph.nodes[number].child(name)
        if child is None:
            child = len(graph.nodes)
            graph.nodes.append(Node([]))
            graph.nodes[number].link(name, child)
        number = child
    return number


def _drop(graph: Graph, rows: dict[str, None]) -> None:
    keys = graph.keys()
    problems = _torn(rows, keys)
    dropped = {attribute_key(row, keys) for row in rows}
    gone: set[int] = set()  # nodes that have no row left
    for number, node in enumerate(graph.nodes):
        left = [part for part in node.parts if part.field != ATTRIBUTE or part.key not in dropped]
        if len(left) < len(node.parts):
            node.edit(left)
            gone.update(() if node.all(ATTRIBUTE) else (number,))
    for node in graph.nodes:
        refer = {part for part in node.parts if part.node in gone or part.original in gone}
        refer = {part for part in refer if part.field in (EDGE, SLOT_VARIABLE)}
        if refer:
            node.edit([part for part in node.parts if part not in refer])
        for part in refer:
            for slot in graph.nodes[part.node].all(ATTRIBUTE) if part.original in gone else ():
                problems.append(RefusedError(f"{slot.key} is the slot of a variable that goes", hint="drop it too"))
    check(problems)


def _add(graph: Graph, variables: Mapping[str, str]) -> None:
    keys = graph.keys()
    for key, full_name in sorted(variables.items(), key=lambda item: SLOT in item[0]):
        owner, is_slot, rest = key.removesuffix(VALUE).partition(SLOT)
        if not key.endswith(VALUE) or key in keys or key == VALUE:
            what = "is there already" if key in keys else "is no variable's key"
            raise RefusedError(f"{key} {what}", expected=None if key in keys else f"a path that ends in {VALUE}")
        if is_slot:
            original = graph.at(path_of(owner + VALUE) or ())
            optimizer, _, name = rest.rpartition("/")
            keeper = graph.at(path_of(optimizer + VALUE) or ()) if optimizer else None
            if original is None or keeper is None:
                raise RefusedError(f"{key} is a slot without its {'variable' if original is None else 'optimizer'}")
            number = len(graph.nodes)
            graph.nodes.append(Node([]))
            graph.nodes[keeper].edit().append(new_part(SLOT_VARIABLE, original, unescape(name), number))
        else:
            number = _make(graph, path_of(key) or ())
        node = graph.nodes[number]
        if number == 0 or any(part.field in (ATTRIBUTE, SLOT_VARIABLE, SAVER) for part in node.parts):
            raise RefusedError(f"{key} cannot be added: its path leads to another object already")
        node.edit().append(new_part(ATTRIBUTE, "VARIABLE_VALUE", full_name, key))
