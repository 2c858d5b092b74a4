"""What the edges of an object graph say: layers in model order, and whose slots are whose.

Everything goes by edges, not by the text of keys: Keras 3 stores the weights of a compiled model as
`optimizer/_trainable_variables/N`, and only the graph tells that the same nodes are `_kernel` and `bias` of a layer.

    Keras 2        model --layer_with_weights-K--> layer; the first releases had --layer-K--> alone
    Keras 3        model --_operations--> list --K--> layer; a Sequential has its list in `_functional`
    by attribute   model --any name--> layer, or list --K--> layer: models that are classes of their own, tf.Module

    old optimizers         slot_variables, and keys <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>
    Keras 2.11 and later   optimizer --_momentums--> list --I--> slot, with the full name Adam/m/<variable's full name>
    Keras 3                the same, and optimizer --_trainable_variables--> list --I--> variable, with the same I

Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from .object_nodes import ATTRIBUTE, EDGE, KERAS_2_EDGES, SLOT, SLOT_VARIABLE, VALUE, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .object_graph import Graph

    Shapes = Mapping[str, tuple[int, ...]]

KERAS_2, KERAS_3, BY_ATTRIBUTE = "keras-2", "keras-3", "attributes"  # schemes

_TRAINABLE = "_trainable_variables"
_MAX_DEPTH = 32  # of models in models, and of scopes in a name: more of them only a hostile graph has
# Edges to what belongs to no layer, or to lists of what stands elsewhere too.
_BESIDE = frozenset(
    ("optimizer", "keras_api", "metrics", "_metrics", "compiled_metrics", "compiled_loss", "_compile_metrics",
     "_compile_loss", "_loss_tracker", "loss_tracker", "signatures", "save_counter", "seed_generator",
     "_seed_generators", "variables", "trainable_variables", "non_trainable_variables", "_all_variables",
     "regularization_losses", "_random_generator")
)  # fmt: skip


def slot_owners(graph: Graph, shapes: Shapes | None = None) -> dict[str, str]:
    """The variable to which each optimizer slot belongs, where that is sure.

    Args:
        graph: of the checkpoint.
        shapes: of the rows, by key; a slot that is told by its full name must have its variable's shape.

    Returns:
        Slot's key -> variable's key.
    """
    keys = _node_keys(graph)
    found: dict[str, str] = {}
    slots: dict[int, str] = {}  # of new optimizers: node -> key
    for optimizer in graph.nodes:
        for part in optimizer.all(SLOT_VARIABLE):
            if part.node in keys and part.original in keys:
                found.setdefault(keys[part.node], keys[part.original])
        for number in _listed(graph, optimizer.child("_variables")).values():
            if number in keys and optimizer.child("_iterations") is not None:
                slots[number] = keys[number]
    names = _unique_names(graph, keys, slots)
    # Each list, and each pair of them, is looked into once, however many edges lead there.
    lists: dict[int | None, dict[int, int]] = {}
    paired: set[tuple[int, int | None]] = set()
    for optimizer in graph.nodes:
        for edge in optimizer.all(EDGE) if optimizer.child("_iterations") is not None else ():
            if edge.name not in ("_variables", _TRAINABLE):
                pair = edge.node, optimizer.child(_TRAINABLE)
                if pair in paired:
                    continue
                paired.add(pair)
                lists.update((each, _listed(graph, each)) for each in pair if each not in lists)
                items, variables = (lists[each] for each in pair)
                for at in sorted(items.keys() & variables.keys()):
                    if items[at] in slots and variables[at] in keys:
                        found.setdefault(slots[items[at]], keys[variables[at]])
    full_names = graph.full_names()
    for key in slots.values():
        if key not in found:
            parts = full_names.get(key, "").split("/")
            tails = ("/".join(parts[start:]) for start in range(max(1, len(parts) - _MAX_DEPTH), len(parts)))
            owner = next((names[tail] for tail in tails if tail in names), None)
            if owner is not None and (shapes is None or shapes.get(owner) == shapes.get(key)):
                found[key] = owner
    known = set(keys.values())
    for key in known - found.keys():
        owner = key.partition(SLOT)[0] + VALUE
        if SLOT in key and owner in known:
            found[key] = owner
    return found


def _node_keys(graph: Graph) -> dict[int, str]:
    """The key of the variable that each node is."""
    return {
        number: part.key
        for number, node in enumerate(graph.nodes)
        for part in node.parts
        if part.field == ATTRIBUTE and part.name == "VARIABLE_VALUE"
    }


def _unique_names(graph: Graph, keys: Mapping[int, str], slots: Mapping[int, str]) -> dict[str, str]:
    """The keys of the variables, slots apart, whose full name no other one has, by full name."""
    full_names = graph.full_names()
    found: dict[str, str] = {}
    twice: set[str] = set()
    for number, key in keys.items():
        name = full_names.get(key, "")
        if number not in slots and SLOT not in key and name:
            twice.update([name] if name in found else ())
            found[name] = key
    return {name: key for name, key in found.items() if name not in twice}


def _listed(graph: Graph, number: int | None) -> dict[int, int]:
    """The items of a list's node, by index, rising; empty for what is no list."""
    items = {} if number is None else {_index(edge.name): edge.node for edge in graph.nodes[number].all(EDGE)}
    return {} if -1 in items else dict(sorted(items.items()))


def _index(name: str) -> int:
    """The number that a name is, or -1."""
    return int(name) if name.isdecimal() and name.isascii() and len(name) < 19 else -1


def layers(graph: Graph, keys: Iterable[str]) -> dict[str, dict[str, int]]:
    """The layers of each model that a checkpoint tracks.

    Models within a model are layers of it. A variable that two layers share belongs to the first, a slot to its
    variable's layer. Where the weights of a Keras model are tracked without the model (by its optimizer alone, or in
    an exported SavedModel), full names tell the layers, if they are unique.

    Args:
        graph: of the checkpoint.
        keys: of the rows that count.

    Returns:
        Scheme -> variable's key -> number of its layer, from 0 among those that have variables, in model order.
        A scheme is called `keras-2`, `keras-3` or `attributes`, followed by the path of its model if there are
        several.
    """
    return _Finder(graph, set(keys)).schemes()


class _Finder:
    """The search for the layers of a graph."""

    def __init__(self, graph: Graph, keys: set[str]) -> None:
        self.graph = graph
        self.keys = {number: key for number, key in _node_keys(graph).items() if key in keys and SLOT not in key}
        self.owners = {slot: owner for slot, owner in slot_owners(graph).items() if slot in keys}
        self.optimizers = {
            number
            for number, node in enumerate(graph.nodes)
            if node.all(SLOT_VARIABLE)
            or node.child("_iterations") is not None
            or (node.child("iter") is not None and node.child("learning_rate") is not None)
        } - {0}
        self.slots = set(self.owners)
        self._parents: dict[int, list[int]] = {}

    def schemes(self) -> dict[str, dict[str, int]]:
        """As `layers`."""
        models = self._models()
        found: dict[str, dict[str, int]] = {}
        for path, number in models.items():
            kind, roots = self._layers_of(number)
            ranks = self._ranks(number, roots)
            if ranks:
                found[f"{kind} {path}"] = ranks
        names: dict[str, dict[str, int]] = {}
        for name, ranks in found.items():
            names[name if len(found) > 1 else name.split(" ")[0]] = ranks
        weights = self._stray_weights(found)
        if weights:
            by_name = self._by_full_name(weights)
            # Some of a model's layers are not reached by edges: ranks among the others would mislead.
            return {KERAS_3: by_name} if by_name else {}
        return names

    def _children(self, number: int) -> list[tuple[str, int]]:
        """The objects of a node that hold variables: its children, a list's items in its place."""
        found: list[tuple[str, int]] = []
        seen = {number}
        holding = self._holding(number)
        for edge in self.graph.nodes[number].all(EDGE):
            if edge.name in _BESIDE or edge.node in self.optimizers:
                continue
            items = _listed(self.graph, edge.node) if edge.node not in self.keys else {}
            inner = [(f"{escape(edge.name)}/{at}", item) for at, item in items.items()]
            for name, child in inner or [(escape(edge.name), edge.node)]:
                if child not in seen and child not in self.keys and child in holding:
                    seen.add(child)
                    found.append((name, child))
        return found

    def _holding(self, without: int) -> set[int]:
        """The nodes from which a variable is reached, but for ways through optimizers and the node `without`."""
        if not self._parents:
            for number, node in enumerate(self.graph.nodes):
                for edge in node.all(EDGE):
                    if edge.name not in _BESIDE:
                        self._parents.setdefault(edge.node, []).append(number)
        stop = self.optimizers | {without}
        seen, waiting = set(self.keys), list(self.keys)
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent not in seen and parent not in stop:
                    seen.add(parent)
                    waiting.append(parent)
        return seen

    def _below(self, start: int, seen: set[int]) -> Iterator[int]:
        """The variables that are reached from a node without passing those that were seen, which grow."""
        waiting = [start]
        while waiting:
            number = waiting.pop()
            if number in self.keys:
                yield number
            for edge in reversed(self.graph.nodes[number].all(EDGE)):
                if edge.name not in _BESIDE and edge.node not in seen:
                    seen.add(edge.node)
                    waiting.append(edge.node)

    def _kind(self, number: int) -> str:
        """Of the model that a node is."""
        node = self.graph.nodes[number]
        if any(edge.name.startswith(KERAS_2_EDGES) for edge in node.all(EDGE)):
            return KERAS_2
        functional = node.child("_functional")
        inner = node if functional is None else self.graph.nodes[functional]
        return KERAS_3 if inner.child("_operations") is not None else BY_ATTRIBUTE

    def _is_layer(self, number: int) -> bool:
        """Whether a node has variables of its own, and is no model."""
        edges = self.graph.nodes[number].all(EDGE)
        return self._kind(number) == BY_ATTRIBUTE and any(edge.node in self.keys for edge in edges)

    def _models(self) -> dict[str, int]:
        """The outermost models, by path: what a root, or the only child of one after the other, tracks."""
        path, number, seen = "", 0, {0}
        while self._kind(number) == BY_ATTRIBUTE:
            children = self._children(number)
            if not children or any(self._is_layer(child) for _, child in children):
                break
            if len(children) > 1:
                kinds = {self._kind(child) for _, child in children}
                several = {f"{path}{name}": child for name, child in children}
                if BY_ATTRIBUTE not in kinds or self.graph.nodes[number].child("save_counter") is not None:
                    return several
                if number == 0:  # a class's blocks, or several models: whoever asks has to say
                    return {".": 0, **several}
                break
            if children[0][1] in seen or len(seen) > _MAX_DEPTH:
                break
            seen.add(children[0][1])
            path, number = f"{path}{children[0][0]}/", children[0][1]
        return {path.rstrip("/") or ".": number}

    def _layers_of(self, number: int) -> tuple[str, list[int]]:
        """The kind of a model, and its layers in order, those without variables included."""
        kind, node = self._kind(number), self.graph.nodes[number]
        if kind == KERAS_2:
            for start in KERAS_2_EDGES:
                edges = [edge for edge in node.all(EDGE) if edge.name.startswith(start)]
                if edges:
                    return kind, [edge.node for edge in sorted(edges, key=lambda edge: _index(edge.name[len(start) :]))]
        if kind == KERAS_3:
            functional = node.child("_functional")
            inner = node if functional is None else self.graph.nodes[functional]
            return kind, list(_listed(self.graph, inner.child("_operations")).values())
        return kind, [child for _, child in self._children(number)]

    def _ranks(self, model: int, roots: list[int]) -> dict[str, int]:
        """The number of the layer of each variable, and of its slots."""
        found: dict[str, int] = {}
        rank, seen = 0, {0, model, *roots} | self.optimizers
        for root in roots:
            variables = [self.keys[number] for number in self._below(root, seen)]
            fresh = [key for key in variables if key not in found and key not in self.slots]
            found.update(dict.fromkeys(fresh, rank))
            rank += bool(fresh)
        return self._with_slots(found)

    def _with_slots(self, found: dict[str, int]) -> dict[str, int]:
        return found | {slot: found[owner] for slot, owner in self.owners.items() if owner in found}

    def _stray_weights(self, found: Mapping[str, Mapping[str, int]]) -> list[int]:
        """The weights, in order, of a model that is not tracked, or of which a part is not."""
        tracked = set(self._below(0, {0} | self.optimizers))
        lists = [self.graph.nodes[number].child(_TRAINABLE) for number in sorted(self.optimizers)]
        lists += [] if found else [self.graph.nodes[0].child("variables")]
        for each in lists:
            numbers = [number for number in _listed(self.graph, each).values() if number in self.keys]
            if any(number not in tracked for number in numbers):
                return numbers
        return []

    def _by_full_name(self, weights: list[int]) -> dict[str, int]:
        """Layers by what full names begin with, in the order of their weights; none where names are not unique."""
        full_names = self.graph.full_names()
        names = [full_names.get(self.keys[number], "") for number in weights]
        if len(set(names)) < len(names) or not all("/" in name for name in names):
            return {}
        ranks: dict[str, int] = {}
        for name in names:
            ranks.setdefault(name.rpartition("/")[0], len(ranks))
        by_layer = {key: full_names.get(key, "").rpartition("/")[0] for key in self.keys.values()}
        return self._with_slots({key: ranks[layer] for key, layer in by_layer.items() if layer in ranks})
