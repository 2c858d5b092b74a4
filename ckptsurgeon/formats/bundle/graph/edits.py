"""Renames, drops and additions of the rows of an object graph.

An edit keeps three things consistent: a row, its attribute, and the edges to its object. TensorFlow silently skips an
object that it can reach but that has lost its attribute. Edits were tried on TensorFlow 2.21.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

from ....errors import CkptSurgeonError, RefusedError, check
from ....names import ATTRIBUTES, OBJECT_SLOT, VALUE_SUFFIX
from .nodes import ATTRIBUTE, SLOT_VARIABLE, Parents, new_part
from .patch import Patch, spread
from .paths import path_of, unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .nodes import Objects
    from .paths import Path

    Move = tuple[Path, Path]  # the path that ends in an edge, empty if no edge exists yet, and its new path

_TABLE_ROWS = ("-keys", "-values")  # suffixes that a table's two rows add to its attribute's key
_MOST_ENDS = 64  # most prefixes of a row that are tried as an attribute's key


def attribute_key(row: str, keys: Mapping[str, int]) -> str | None:
    """Return the key of the attribute that names a row: the row's own, or, for tables and iterators, a prefix of it."""
    if row in keys:
        return row
    start = row.rfind(ATTRIBUTES) + len(ATTRIBUTES)
    ends = (end for end in range(len(row) - 1, start, -1) if row[end] in "-_")
    return next((row[:end] for end in islice(ends, _MOST_ENDS) if row[:end] in keys), None)


def _torn(rows: Iterable[str], keys: Mapping[str, int]) -> list[CkptSurgeonError]:
    """Return a problem for each table of which only one of the two rows is named."""
    count = Counter(row.removesuffix(end) for row in rows for end in _TABLE_ROWS if row.endswith(end))
    torn = [[key + end for end in _TABLE_ROWS] for key in count if key in keys and count[key] < 2]
    return [RefusedError(f"{' and '.join(both)} belong to one table", hint="name both") for both in torn]


def rename(objects: Objects, changes: Mapping[str, str]) -> bytes:
    """Return the bytes of a graph whose rows have new keys; see `Graph.rename`."""
    keys = objects.by_key()
    problems = _torn(changes, keys)
    moved: dict[str, str] = {}  # attribute's old key -> new key
    for old, new in changes.items():
        key = attribute_key(old, keys)
        if key is None or new == old:
            continue
        path, _, end = old.rpartition(ATTRIBUTES)
        new_path, _, new_end = new.rpartition(ATTRIBUTES)
        if end != new_end or (OBJECT_SLOT in old) != (OBJECT_SLOT in new) or not path or not new_path:
            problems.append(RefusedError(f"{old} cannot become {new}", expected=f"a path before {old[len(path) :]}"))
        elif moved.setdefault(key, new_path + key[len(path) :]) != new_path + key[len(path) :]:
            problems.append(RefusedError(f"the rows of {key} can only be renamed together"))
    targets = Counter(moved.values())
    taken = [new for new, count in targets.items() if count > 1 or (new in keys and new not in moved)]
    check(problems + [RefusedError(f"{new} cannot be the name of two variables") for new in taken])
    if not moved:
        return objects.data
    patch = Patch(objects)
    moves = _Moves(objects, keys, moved).found
    _lead(patch, moves, moved)
    for key, new in moved.items():
        new_names = path_of(new)
        if path_of(key) != new_names and new_names is not None and patch.at(new_names) != keys[key]:
            raise RefusedError(f"{key} cannot become {new}: another object has its path")
    patch.keys.update(moved)
    return patch.encode()


class _Moves:
    """Finds the edges to move so that keys are paths again.

    Each edge is as near to the root as possible: all keys below it must move in the same way.

    Attributes:
        found: move -> the node to which its edge leads.
    """

    def __init__(self, objects: Objects, keys: Mapping[str, int], moved: Mapping[str, str]) -> None:
        self.found: dict[Move, int] = {}
        self._objects = objects
        self._moved = moved
        self._stays: bytearray | None = None
        self._refused: set[Move] = set()
        self._above: dict[Path, list[Path]] = {}  # path -> the paths below it that are targets of moves
        self._movers: dict[Path, int] = {}  # path -> the node that moves there
        paths = [(key, path_of(key), path_of(new)) for key, new in moved.items()]
        together = Counter(move for _, old, new in paths for move in _heads(old, new))
        below = _below(keys, {head for head, _ in together})
        for key, old, new in paths:
            if old is None or new is None or old == new:
                continue
            leads = objects.at(old) == keys[key]
            for head, new_head in _heads(old, new):
                if below[head] == together[head, new_head] and (leads or head == old):
                    node = objects.at(head) if leads else None
                    there = objects.at(new_head)
                    if there in (None, node, keys[key] if head == old else None) or self._is_free(there):
                        move = head if leads else (), new_head
                        number = keys[key] if node is None else node
                        if self._claim(move, number, head == old):
                            break
            else:
                stays = (
                    "another object has its path"
                    if below[old] == 1
                    else f"other variables below {'/'.join(old)} keep their names"
                )
                raise RefusedError(f"{key} cannot become {moved[key]}: {stays}")

    def _is_free(self, node: int) -> bool:
        """Return whether every row below a node moves away, and no slots or savers are below it."""
        objects = self._objects
        if self._stays is None:
            self._stays = bytearray(len(objects))
            for each, key in zip(objects.keyed, objects.keys, strict=True):
                self._stays[each] |= key not in self._moved
            for each in (*objects.keepers, *objects.savers):
                self._stays[each] = 1
            spread(self._stays, Parents(objects))
        return not self._stays[node]

    def _claim(self, move: Move, node: int, single: bool) -> bool:
        """Note a move and return True, unless it collides with the target of another move or with a path below one."""
        new = move[1]
        if move in self.found:
            return True
        if move in self._refused:
            return False
        at = self._objects.at
        if not single and (
            new in self._movers
            or any(at(path[len(new) :], node) is not None for path in self._above.get(new, ()))
            or any(
                new[:end] in self._movers and at(new[end:], self._movers[new[:end]]) is not None
                for end in range(1, len(new))
            )
        ):
            self._refused.add(move)
            return False
        self.found[move] = self._movers[new] = node
        for end in range(1, len(new)):
            self._above.setdefault(new[:end], []).append(new)
        return True


def _below(keys: Iterable[str], heads: set[Path]) -> Counter[Path]:
    """Count the keys below each of these paths."""
    found: Counter[Path] = Counter()
    lengths = sorted({len(head) for head in heads})
    for key in keys if heads else ():
        path = path_of(key) or ()
        for length in lengths:
            if length <= len(path) and path[:length] in heads:
                found[path[:length]] += 1
    return found


def _heads(old: Path | None, new: Path | None) -> list[Move]:
    """Return the pairs of prefixes after which two paths are equal, the shortest first; the root cannot be moved."""
    alike = 0
    if not old or not new:
        return []
    while alike < min(len(old), len(new)) - 1 and old[-1 - alike] == new[-1 - alike]:
        alike += 1
    return [(old[: len(old) - end], new[: len(new) - end]) for end in range(alike, -1, -1)]


def _is_free(patch: Patch, start: int, keys: Iterable[str]) -> bool:
    """Return whether every row below a node will move away, and no slots or savers will be below it."""
    objects = patch.objects
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if patch.has_own(node) and (
            node >= len(objects)
            or node in objects.savers
            or objects.slots_of(node)
            or any(objects.keys[number] not in keys for number in objects.attributes_of(node))
        ):
            return False
        fresh = set(patch.children(node)) - seen
        seen |= fresh
        waiting += fresh
    return True


def _lead(patch: Patch, moves: Mapping[Move, int], moved: Mapping[str, str]) -> None:
    """Remove the edges at the ends of paths that move, and make the new ones.

    The two edges of a Keras 2 layer go together: a node that moves to the layer's place gets both, so that no program
    finds two different layers under the two names of one layer.
    """
    places = {head: (patch.at(head[:-1]) or 0, head[-1]) for head, _ in moves if head}
    holes: dict[tuple[int, str], int] = {}  # the place of an edge -> its number
    seconds: dict[tuple[int, str], list[str]] = {}
    for place in places.values():
        holes[place], seconds[place] = patch.take(*place)
    for (head, new_head), number in sorted(moves.items(), key=lambda move: len(move[0][1])):
        place = parent, name = patch.make(new_head[:-1]), new_head[-1]
        there = patch.child(parent, name)
        if there is not None:
            if there != number and not _is_free(patch, there, moved):
                raise RefusedError(f"{'/'.join(new_head)}: another object has this path")
            holes[place], seconds[place] = patch.take(*place)
        # Reuse the old position if the parent is the same: edge positions give the order of the layers.
        hole = holes.pop(places[head], -1) if head and places[head][0] == parent else -1
        patch.link(parent, name, number, hole)
        for second in seconds.get(place, ()):
            patch.link(parent, second, number)


def drop(objects: Objects, rows: Iterable[str]) -> bytes:
    """Return the bytes of a graph without some rows; see `Graph.drop`."""
    rows = dict.fromkeys(rows)
    keys = objects.by_key()
    problems = _torn(rows, keys)
    dropped = {attribute_key(row, keys) for row in rows}
    patch = Patch(objects)
    gone, left = bytearray(len(objects)), bytearray(len(objects))  # nodes that lose a row, that keep one
    for node, key in zip(objects.keyed, objects.keys, strict=True):
        (gone if key in dropped else left)[node] = 1
    if 1 not in gone:
        check(problems)
        return objects.data
    patch.keys.update((key, None) for key in dropped if key is not None)
    for node in range(len(objects)):
        gone[node] &= not left[node]
    for edge, child in enumerate(objects.children):
        patch.gone_edges[edge] = gone[child]
    for number, (original, slot) in enumerate(zip(objects.originals, objects.slots, strict=True)):
        patch.gone_slots[number] = gone[original] | gone[slot]
        if gone[original] and left[slot]:
            stay = [objects.keys[each] for each in objects.attributes_of(slot) if objects.keys[each] not in dropped]
            problems += [RefusedError(f"{key} is a slot of a dropped variable", hint="drop it too") for key in stay]
    check(problems)
    return patch.encode()


def add(objects: Objects, variables: Mapping[str, str]) -> bytes:
    """Return the bytes of a graph with more variables; see `Graph.add`."""
    if not variables:
        return objects.data
    keys = objects.by_key()
    patch = Patch(objects)
    for key, full_name in sorted(variables.items(), key=lambda item: OBJECT_SLOT in item[0]):
        owner, is_slot, rest = key.removesuffix(VALUE_SUFFIX).partition(OBJECT_SLOT)
        path = path_of(key)
        if not key.endswith(VALUE_SUFFIX) or key in keys or key == VALUE_SUFFIX or (path is None and not is_slot):
            what = "already exists" if key in keys else "is not a variable's key"
            raise RefusedError(f"{key} {what}", expected=None if key in keys else f"a path that ends in {VALUE_SUFFIX}")
        if is_slot:
            original = patch.at(path_of(owner + VALUE_SUFFIX) or ())
            optimizer, _, name = rest.rpartition("/")
            keeper = patch.at(path_of(optimizer + VALUE_SUFFIX) or ()) if optimizer else None
            if original is None or keeper is None:
                raise RefusedError(f"{key} is a slot without its {'variable' if original is None else 'optimizer'}")
            number = patch.new_node()
            patch.append(keeper, new_part(SLOT_VARIABLE, original, unescape(name), number))
        else:
            number = patch.make(path or ())
        if number == 0 or patch.has_own(number):
            raise RefusedError(f"{key} cannot be added: its path leads to another object already")
        patch.append(number, new_part(ATTRIBUTE, "VARIABLE_VALUE", full_name, key))
    return patch.encode()
