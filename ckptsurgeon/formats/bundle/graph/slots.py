"""Finds the variable of each optimizer slot in an object graph.

    old optimizers         slot_variables, and keys <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>
    Keras 2.11 and later   optimizer --_momentums--> list --I--> slot, with the full name Adam/m/<variable's full name>
    Keras 3                the same, and optimizer --_trainable_variables--> list --I--> variable, with the same I

Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from ....names import OBJECT_SLOT, VALUE_SUFFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from .nodes import Objects

    Shapes = Mapping[str, tuple[int, ...]]

TRAINABLE = "_trainable_variables"
_VARIABLES = "_variables"
_MAX_DEPTH = 32  # of scopes in a name; only a hostile graph has more


class SlotOwners:
    """The variables to which optimizer slots belong.

    Args:
        objects: of the checkpoint.
    """

    def __init__(self, objects: Objects) -> None:
        self._sure, self._by_full_name, self._by_key, self._kept = _owners(objects)

    def all(self, shapes: Shapes | None = None) -> dict[str, str]:
        """Return the variable of each slot, where it is certain.

        Args:
            shapes: shapes of the rows by key; a slot found by its full name must have its variable's shape, and an
                optimizer of which anything but scalars is left over keeps all its slots.

        Returns:
            Slot's key -> variable's key.
        """
        by_full_name = self._by_full_name
        if shapes is not None:
            by_full_name = {
                slot: owner for slot, owner in by_full_name.items() if shapes.get(slot) == shapes.get(owner)
            }
        found = {**self._by_key, **by_full_name, **self._sure}
        if shapes is not None:
            for keys in self._kept:
                if any(shapes.get(key) for key in keys if key not in found):
                    for key in keys:
                        found.pop(key, None)
        return found


def _owners(objects: Objects) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[list[str]]]:
    """Return the owners of slots found by edges, by full names and by keys, and all variables of each optimizer."""
    keys = objects.variables
    found: dict[str, str] = {}
    for slot, original in zip(objects.slots, objects.originals, strict=True):
        if slot in keys and original in keys:
            found.setdefault(keys[slot], keys[original])
    named = objects.named(("_iterations", _VARIABLES, TRAINABLE))
    optimizers = named["_iterations"]
    # Each list is read once, even if many optimizers share it, as only a hostile graph's do.
    slots: dict[int, str] = {}  # of new optimizers: node -> key
    kept: list[list[str]] = []
    for number in dict.fromkeys(each for keeper, each in named[_VARIABLES].items() if keeper in optimizers):
        mine = {slot: keys[slot] for slot in listed(objects, number)[1] if slot in keys}
        slots.update(mine)
        kept.append(list(mine.values()))
    lists: dict[int, dict[int, int]] = {}
    seen: set[int] = set()
    for optimizer, trainable in named[TRAINABLE].items():
        for name, node in objects.edges(optimizer) if optimizer in optimizers else ():
            if name in (_VARIABLES, TRAINABLE) or node in seen:
                continue
            seen.add(node)
            if trainable not in lists:
                lists[trainable] = dict(zip(*listed(objects, trainable), strict=True))
            variables = lists[trainable]
            for at, slot in zip(*listed(objects, node), strict=True):
                if slot in slots and variables.get(at) in keys:
                    found.setdefault(slots[slot], keys[variables[at]])
    left = [key for key in slots.values() if key not in found]
    old = {key: key.partition(OBJECT_SLOT)[0] + VALUE_SUFFIX for key in keys.values() if OBJECT_SLOT in key}
    known = set(keys.values()) if old else ()
    by_key = {slot: owner for slot, owner in old.items() if owner in known}
    return found, _by_full_name(objects, keys, slots, left), by_key, kept


def _by_full_name(
    objects: Objects, keys: Mapping[int, str], slots: Mapping[int, str], left: list[str]
) -> dict[str, str]:
    """Return the owners of slots whose full names end with the full name of exactly one variable."""
    full_names = full_names_of(objects, set(left))
    ends = {name.rpartition("/")[2].encode("utf-8", "surrogateescape") for name in full_names.values()}
    names: dict[str, str] = {}
    twice: set[str] = set()
    each = zip(objects.keyed, objects.keys, objects.full_names(), strict=True) if ends else ()
    for number, key, full_name in each:
        is_end = full_name.rpartition(b"/")[2] in ends
        if is_end and number not in slots and OBJECT_SLOT not in key and keys.get(number) == key:
            name = full_name.decode("utf-8", "surrogateescape")
            twice.update([name] if name in names else ())
            names[name] = key
    found = {}
    for key, name in full_names.items():
        owner = next((names[tail] for tail in _tails(name) if tail in names and tail not in twice), None)
        if owner is not None:
            found[key] = owner
    return found


def _tails(name: str) -> Iterator[str]:
    """Yield the parts of a name after each slash, the longest first."""
    slashes = [len(name)]
    while slashes[-1] >= 0 and len(slashes) <= _MAX_DEPTH:
        slashes.append(name.rfind("/", 0, slashes[-1]))
    return (name[slash + 1 :] for slash in reversed(slashes[1:]) if slash >= 0)


def full_names_of(objects: Objects, keys: Container[str] | None = None) -> dict[str, str]:
    """Return the full names of variables, or of those with the given keys; variables without one are left out."""
    each = zip(objects.keys, objects.full_names(), strict=True)
    return {
        key: name.decode("utf-8", "surrogateescape") for key, name in each if name and (keys is None or key in keys)
    }


def listed(objects: Objects, number: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return the indices and the items of a list's node, in ascending order; both empty if the node is not a list."""
    start, end = objects.first[number], objects.first[number + 1]
    names = objects.names[start:end]
    if names and index_of(names[0]) < 0:  # most nodes are not lists
        return (), ()
    items = objects.children[start:end]
    if names == list(map(str, range(len(names)))):  # most lists are in order
        return range(len(names)), items
    indices = [index_of(name) for name in names]
    if -1 in indices:
        return (), ()
    by_index = sorted(dict(zip(indices, items, strict=True)).items())
    return [at for at, _ in by_index], [item for _, item in by_index]


def index_of(name: str) -> int:
    """Return the number that a name spells, or -1."""
    return int(name) if name.isdecimal() and name.isascii() and len(name) < 19 else -1
