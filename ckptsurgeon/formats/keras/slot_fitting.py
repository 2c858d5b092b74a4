"""Fits the numbered variables of an optimizer to the weights of a model: all ways in which the shapes agree. Pure.

A state is what a prefix of the layers has taken: how many weights are trained, and where the slots that are stored
weight by weight go on. A layer is either frozen, or takes its weights' slots. States from which the end cannot be
reached are discarded, so what remains is every way that fits; no way is enumerated by itself.
"""

from __future__ import annotations

from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .slot_layouts import Layout, Shape

    State = tuple[int, int]  # trained weights so far; number of the next slot that is stored weight by weight
    Meaning = tuple[str, str, str]  # weight (empty if it is not certain which), kind, place in the layout
    Edge = tuple[State, State, list[tuple[int, Meaning]]]

_MOST_STEPS = 1 << 18


class Layer:
    """The trained weights of a layer.

    Args:
        names: names of the weights.
        shapes: their shapes.
        is_ordered: whether an optimizer has them in this order.
        is_frozen: whether the model's config says that the layer is not trained.
        has_two: for each weight, see `Layout.slots_of`.
    """

    __slots__ = ("has_two", "is_frozen", "is_ordered", "names", "shapes")

    def __init__(
        self, names: list[str], shapes: list[Shape], is_ordered: bool, is_frozen: bool, has_two: list[bool | None]
    ) -> None:
        self.names, self.shapes, self.has_two = names, shapes, has_two
        self.is_ordered, self.is_frozen = is_ordered, is_frozen


class TooManyWays(Exception):
    """Looking at all ways would take too long."""


class Fitting:
    """All ways in which shapes fit layers.

    Args:
        shapes: of the optimizer's variables, by number.
        layers: in model order.
        as_configured: whether exactly the layers are trained that are not frozen by the model's config.

    Attributes:
        meanings: number of a slot -> what it may be.
    """

    def __init__(self, shapes: Sequence[Shape], layers: Sequence[Layer], as_configured: bool) -> None:
        self._shapes, self._layers, self._as_configured = shapes, layers, as_configured
        self._steps = 0
        self.meanings: dict[int, set[Meaning]] = {}

    def add(self, layout: Layout) -> None:
        """Add the ways that fit a layout.

        Raises:
            TooManyWays: there are too many states.
        """
        start, end = layout.scalars, len(self._shapes) - layout.last
        if end <= start or any(self._shapes[:start]) or any(self._shapes[end:]):
            return
        for count in self._counts(layout, end - start):
            for number, meaning in _Ways(self, layout, count, start, end).found():
                self.meanings.setdefault(number, set()).add(meaning)

    def _counts(self, layout: Layout, slots: int) -> Iterable[int]:
        """Return the possible numbers of trained weights; 0 if the layout does not depend on it."""
        most = sum(len(layer.names) for layer in self._layers)
        if layout.each is None:
            return range(1, most + 1) if layout.before else (0,)
        count, rest = divmod(slots, layout.each)
        return (count,) if 0 < count <= most and not rest else ()

    def step(self) -> None:
        """Count a step."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise TooManyWays

    @property
    def shapes(self) -> Sequence[Shape]:
        """Shapes of the optimizer's variables."""
        return self._shapes

    def choices(self) -> Iterator[tuple[Layer, bool, bool]]:
        """Yield each layer, whether it may be frozen, and whether it may be trained."""
        for layer in self._layers:
            known = self._as_configured or not layer.names
            is_frozen = layer.is_frozen or not layer.names
            yield layer, is_frozen or not known, not is_frozen or not known


class _Ways:
    """All ways for one layout and one number of trained weights."""

    def __init__(self, fitting: Fitting, layout: Layout, count: int, start: int, end: int) -> None:
        self._fitting, self._layout, self._count = fitting, layout, count
        self._start, self._end = start, end - len(layout.after) * count
        self._first = start + len(layout.before) * count

    def found(self) -> Iterator[tuple[int, Meaning]]:
        """Yield what each slot may be."""
        states: set[State] = {(0, self._first)}
        levels: list[list[Edge]] = []
        for layer, may_skip, may_take in self._fitting.choices():
            edges: list[Edge] = []
            for state in states:
                self._fitting.step()
                if may_skip:
                    edges.append((state, state, []))
                if may_take:
                    edges += self._taken(layer, state)
            levels.append(edges)
            states = {to for _, to, _ in edges}
        reached = {state for state in states if state[1] == self._end and self._count in (0, state[0])}
        for edges in reversed(levels):
            kept = [edge for edge in edges if edge[1] in reached]
            reached = {origin for origin, _, _ in kept}
            for _, _, meanings in kept:
                yield from meanings

    def _taken(self, layer: Layer, state: State) -> list[Edge]:
        """Return the edges along which a layer's weights take their slots."""
        if not layer.is_ordered:
            return self._taken_in_any_order(layer, state)
        ends: list[tuple[State, list[tuple[int, Meaning]]]] = [(state, [])]
        for name, shape, has_two in zip(layer.names, layer.shapes, layer.has_two, strict=True):
            ends = [
                (to, [*before, *((number, (name, kind, place)) for number, kind, place in slots)])
                for at, before in ends
                for to, slots in self._slots(at, shape, has_two)
            ]
        return [(state, to, meanings) for to, meanings in ends]

    def _slots(
        self, state: State, shape: Shape, has_two: bool | None
    ) -> Iterator[tuple[State, list[tuple[int, str, str]]]]:
        """Yield the state after a weight, and its slots: number, kind, and place in the layout."""
        trained, at = state
        layout, shapes = self._layout, self._fitting.shapes
        if self._count and trained >= self._count:
            return
        around = [(self._start + block * self._count + trained, kind) for block, kind in enumerate(layout.before)]
        around += [(self._end + block * self._count + trained, kind) for block, kind in enumerate(layout.after)]
        for together in layout.slots_of(shape, has_two):
            self._fitting.step()
            if at + len(together) > self._end:
                continue
            wanted = [
                (number, kind, shape, kind in layout.before, block) for block, (number, kind) in enumerate(around)
            ]
            fits = all(shapes[number] == each for number, _, each, _, _ in wanted)
            if not fits or any(shapes[at + number] != each for number, (_, each) in enumerate(together)):
                continue
            slots = [(number, kind, f"block {block} {is_before}") for number, kind, _, is_before, block in wanted]
            slots += [(at + n, kind, f"{n} of {len(together)}") for n, (kind, _) in enumerate(together) if kind]
            yield (trained + 1, at + len(together)), slots

    def _taken_in_any_order(self, layer: Layer, state: State) -> list[Edge]:
        """Return the edge along which the weights of a layer take slots, if their order is not known."""
        if self._layout.each is None:
            return []
        at, meanings, given = state, [], []
        tried, count = sorted(set(layer.shapes)), Counter(layer.shapes)
        first = dict(zip(reversed(layer.shapes), reversed(layer.names), strict=True))
        for _ in layer.names:
            fitting = [(shape, *each) for shape in tried for each in self._slots(at, shape, None)]
            if len(fitting) != 1:
                return []
            shape, at, slots = fitting[0]
            given.append(shape)
            name = first[shape] if count[shape] == 1 else ""
            meanings += [(each, (name, kind, place)) for each, kind, place in slots]
        if sorted(given) != sorted(layer.shapes):
            return []
        return [(state, at, meanings)]
