"""Layers in model order, by the edges of an object graph.

Layers are found by edges, not by the text of keys: Keras 3 stores the weights of a compiled model as
`optimizer/_trainable_variables/N`, and only the graph shows that the same nodes are `_kernel` and `bias` of a layer.

    Keras 2        model --layer_with_weights-K--> layer; the first releases had only --layer-K-->
    Keras 3        model --_operations--> list --K--> layer; a Sequential has its list in `_functional`
    by attribute   model --any name--> layer, or list --K--> layer: custom model classes, tf.Module

`slots` finds each slot's variable. Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from ....names import OBJECT_SLOT
from .nodes import KERAS_2_EDGES, Parents
from .paths import escape
from .slots import TRAINABLE, full_names_of, index_of, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from .nodes import Objects

KERAS_2, KERAS_3, BY_ATTRIBUTE = "keras-2", "keras-3", "attributes"  # schemes

_MAX_DEPTH = 32  # of nested models; only a hostile graph has more
# Limits on work: only a hostile graph has models that share more of their objects than this.
_SPARE_STEPS, _MOST_STEPS = 500_000, 4  # for any graph; for each object and edge
_ENTRY_STEPS = 4  # steps that an entry in a table of layers counts as, because it takes memory
_TELLING = ("_iterations", "iter", "learning_rate", "_functional", "_operations", TRAINABLE)  # edge names looked up
# Edges to objects that belong to no layer, or to lists of objects that are also reached by another edge.
_BESIDE = frozenset(
    ("optimizer", "keras_api", "metrics", "_metrics", "compiled_metrics", "compiled_loss", "_compile_metrics",
     "_compile_loss", "_loss_tracker", "loss_tracker", "signatures", "save_counter", "seed_generator",
     "_seed_generators", "variables", "trainable_variables", "non_trainable_variables", "_all_variables",
     "regularization_losses", "_random_generator")
)  # fmt: skip


def layers(objects: Objects, keys: Iterable[str], owners: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return the layers of each model that a checkpoint tracks.

    Nested models count as layers. A variable that two layers share belongs to the first, a slot to its variable's
    layer. If the weights of a Keras model are tracked without the model (only by its optimizer, or in an exported
    SavedModel), layers are found by full names, provided these are unique.

    Args:
        objects: the checkpoint's objects.
        keys: keys of the rows to consider.
        owners: slot's key -> its variable's key.

    Returns:
        Scheme -> variable's key -> number of its layer, from 0 among those that have variables, in model order.
        A scheme is called `keras-2`, `keras-3` or `attributes`, followed by the path of its model if there are
        several.
    """
    return _Finder(objects, keys if isinstance(keys, dict) else set(keys), owners).schemes()


class _Finder:
    """Searches a graph for its layers."""

    def __init__(self, objects: Objects, keys: Container[str], owners: Mapping[str, str]) -> None:
        self.objects = objects
        self.keys = objects.variables
        if not all(key in keys and OBJECT_SLOT not in key for key in self.keys.values()):
            self.keys = {number: key for number, key in self.keys.items() if key in keys and OBJECT_SLOT not in key}
        self.owners = owners
        if not all(slot in keys for slot in owners):
            self.owners = {slot: owner for slot, owner in owners.items() if slot in keys}
        self._slots: dict[str, list[str]] = {}  # variable -> its slots; filled on first use
        self.named = named = objects.named(_TELLING)
        old = named["iter"].keys() & named["learning_rate"].keys()
        self.optimizers = {*objects.keepers, *named["_iterations"], *old} - {0}
        self._parents: Parents | None = None
        # Each list is read once, however many edges lead to it.
        self._lists: dict[int, tuple[Sequence[int], Sequence[int]]] = {}
        self._size = len(objects) + len(objects.children)
        self._steps = _SPARE_STEPS + _MOST_STEPS * self._size

    def schemes(self) -> dict[str, dict[str, int]]:
        """Return the result of `layers`."""
        models = self._models()
        found: dict[str, dict[str, int]] = {}
        for path, number in models.items():
            if self._steps <= 0:
                break
            kind, roots = self._layers_of(number)
            ranks = self._ranks(number, roots)
            if ranks:
                found[f"{kind} {path}"] = ranks
        names: dict[str, dict[str, int]] = {}
        for name, ranks in found.items():
            names[name if len(found) > 1 else name.split(" ")[0]] = ranks
        weights = self._stray_weights(bool(found))
        if weights:
            by_name = self._by_full_name(weights)
            # Some of a model's layers are not reached by edges, so layer numbers of the other schemes would mislead.
            return {KERAS_3: by_name} if by_name else {}
        return names

    def _list(self, number: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return `listed(number)`, cached."""
        found = self._lists.get(number)
        if found is None:
            found = self._lists[number] = listed(self.objects, number)
        return found

    def _children(self, number: int) -> list[tuple[str, int]]:
        """Return a node's children that may hold variables; a list is replaced by its items."""
        found: list[tuple[str, int]] = []
        seen = {number}
        looked: set[int] = set()
        for edge, node in self.objects.edges(number):
            if edge in _BESIDE or node in self.optimizers or node in looked:
                continue
            looked.add(node)
            indices, items = self._list(node) if node not in self.keys else ((), ())
            self._steps -= len(indices)
            for at, child in zip(indices or [-1], items or [node], strict=True):
                if child not in seen and child not in self.keys:
                    seen.add(child)
                    found.append((f"{escape(edge)}/{at}" if indices else escape(edge), child))
        return found

    def _holding(self, without: int) -> bytearray:
        """Mark the nodes that lead to a variable, not counting ways through optimizers or the node `without`."""
        if self._parents is None:
            self._parents = Parents(self.objects)
        last, before, parent_of = self._parents.last, self._parents.before, self._parents.parent
        names = self.objects.names
        seen = bytearray(len(self.objects))
        for number in (*self.optimizers, without, *self.keys):
            seen[number] = 1
        waiting = list(self.keys)
        while waiting:
            edge = last[waiting.pop()]
            while edge >= 0:
                parent = parent_of[edge]
                if not seen[parent] and names[edge] not in _BESIDE:
                    seen[parent] = 1
                    waiting.append(parent)
                edge = before[edge]
        for number in {without, *self.optimizers} - self.keys.keys():
            seen[number] = 0
        return seen

    def _below(self, start: int, seen: set[int]) -> Iterator[int]:
        """Yield the variables reached from a node without passing nodes in `seen`; adds the nodes visited to it."""
        first, names, children = self.objects.first, self.objects.names, self.objects.children
        waiting = [start]
        while waiting and self._steps > 0:
            number = waiting.pop()
            if number in self.keys:
                yield number
            self._steps -= 1 + first[number + 1] - first[number]
            for edge in range(first[number + 1] - 1, first[number] - 1, -1):
                child = children[edge]
                if child not in seen and child not in self.optimizers and names[edge] not in _BESIDE:
                    seen.add(child)
                    waiting.append(child)

    def _kind(self, number: int) -> str:
        """Return the kind of model that a node is."""
        if any(name.startswith(KERAS_2_EDGES) for name, _ in self.objects.edges(number)):
            return KERAS_2
        inner = self.named["_functional"].get(number, number)
        return KERAS_3 if inner in self.named["_operations"] else BY_ATTRIBUTE

    def _is_layer(self, number: int) -> bool:
        """Return whether a node has variables of its own and is not a Keras model."""
        has_own = any(child in self.keys for _, child in self.objects.edges(number))
        return has_own and self._kind(number) == BY_ATTRIBUTE

    def _models(self) -> dict[str, int]:
        """Return the outermost models by path, descending from the root while there is only one child to follow."""
        path, number, seen = "", 0, {0}
        while self._kind(number) == BY_ATTRIBUTE:
            children = self._children(number)
            if len(children) != 1 or self._kind(children[0][1]) == BY_ATTRIBUTE:  # otherwise there is only one way
                holding = self._holding(number)
                children = [(name, child) for name, child in children if holding[child]]
            if not children or any(self._is_layer(child) for _, child in children):
                break
            if len(children) > 1:
                kinds = {self._kind(child) for _, child in children}
                several = {f"{path}{name}": child for name, child in children}
                if BY_ATTRIBUTE not in kinds or self.objects.child(number, "save_counter") is not None:
                    return several
                if number == 0:  # blocks of one model, or several models: the caller must choose
                    return {".": 0, **several}
                break
            if children[0][1] in seen or len(seen) > _MAX_DEPTH:
                break
            seen.add(children[0][1])
            path, number = f"{path}{children[0][0]}/", children[0][1]
        return {path.rstrip("/") or ".": number}

    def _layers_of(self, number: int) -> tuple[str, list[int]]:
        """Return the kind of a model, and its layers in order, including those without variables."""
        kind = self._kind(number)
        if kind == KERAS_2:
            for start in KERAS_2_EDGES:
                ranked = [
                    (index_of(name[len(start) :]), child)
                    for name, child in self.objects.edges(number)
                    if name.startswith(start)
                ]
                if ranked:
                    return kind, [child for _, child in sorted(ranked, key=lambda each: each[0])]
        if kind == KERAS_3:
            _, items = self._list(self.named["_operations"][self.named["_functional"].get(number, number)])
            self._steps -= len(items)
            return kind, list(items)
        return kind, [child for _, child in self._children(number)]

    def _ranks(self, model: int, roots: list[int]) -> dict[str, int]:
        """Return the layer number of each variable and of its slots; empty if the limit on steps is reached."""
        found: dict[str, int] = {}
        rank, seen = 0, {0, model, *roots}
        self._steps -= len(seen)
        for root in roots if self._steps > 0 else ():
            variables = [self.keys[number] for number in self._below(root, seen)]
            fresh = [key for key in variables if key not in found and key not in self.owners]
            found.update(dict.fromkeys(fresh, rank))
            rank += bool(fresh)
        found = self._with_slots(found)
        self._steps -= _ENTRY_STEPS * len(found)
        return found if self._steps > 0 else {}

    def _with_slots(self, found: dict[str, int]) -> dict[str, int]:
        if 2 * len(found) > len(self.owners):
            return found | {slot: found[owner] for slot, owner in self.owners.items() if owner in found}
        if not self._slots:
            for slot, owner in self.owners.items():
                self._slots.setdefault(owner, []).append(slot)
        return found | {slot: rank for owner, rank in found.items() for slot in self._slots.get(owner, ())}

    def _stray_weights(self, ranked: bool) -> list[int]:
        """Return the weights, in order, of a model that is not tracked or is tracked only in part."""
        objects = self.objects
        trainable = self.named[TRAINABLE]
        lists = [trainable[number] for number in sorted(self.optimizers) if number in trainable]
        variables = None if ranked else objects.child(0, "variables")
        lists += [] if variables is None else [variables]
        self._steps = self._size + 1  # enough to visit each object and edge once
        tracked = set(self._below(0, {0})) if lists else set()
        for each in dict.fromkeys(lists):
            numbers = [number for number in self._list(each)[1] if number in self.keys]
            if any(number not in tracked for number in numbers):
                return numbers
        return []

    def _by_full_name(self, weights: list[int]) -> dict[str, int]:
        """Number layers by the prefixes of full names, in the order of weights; empty if the names are not unique."""
        full_names = full_names_of(self.objects, set(self.keys.values()))
        names = [full_names.get(self.keys[number], "") for number in weights]
        if len(set(names)) < len(names) or not all("/" in name for name in names):
            return {}
        ranks: dict[str, int] = {}
        for name in names:
            ranks.setdefault(name.rpartition("/")[0], len(ranks))
        by_layer = {key: full_names.get(key, "").rpartition("/")[0] for key in self.keys.values()}
        return self._with_slots({key: ranks[layer] for key, layer in by_layer.items() if layer in ranks})
