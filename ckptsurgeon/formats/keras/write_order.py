"""The order in which the layers of a `.weights.h5` were written, inferred from the places of its objects. Pure.

Keras writes one layer after the other. libhdf5 appends object headers to the file, except that a small header may be
put into a hole: space freed earlier when a table of group names had to grow. A layer whose headers all went into a hole
looks older than it is:

    file offset  ->   [a] [b] [ hole: e ] [c] [d]        written in the order a b c d e

1. Take the place of a layer's last header as its time.
2. Two orders are certain whatever the holes: the numbers in the names of one class increase (`dense`, `dense_1`), and
   so do the places of values too large for any hole. A layer whose time contradicts these is hidden in a hole (e, if d
   must precede it).
3. A hidden layer comes after the layer before its hole (b), and before any later layer that starts in the same hole and
   continues at the end of the file.
4. If another layer could be hidden without breaking rule 2, or if these rules allow several orders, there is no answer.

Checked on files of up to 800 layers.
"""

from __future__ import annotations

import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Place = tuple[int, int]  # number of the part, offset in it
    Edges = dict[str, set[str]]

_LAYER = 1088  # minimum bytes for the headers of a layer: two group nodes
_NEAR = 2  # layers written this close together may have interleaved headers


class Traces:
    """The evidence in a file of when its layers were written.

    Attributes:
        headers: the place of each header, and its layer.
        classes: for each class, its layers in the order of their numbers.
        large: layers with values too large for a hole -> where these values begin.
        names: total size of the sibling groups' names, in bytes; holes grow to about this size.
    """

    def __init__(
        self,
        headers: Iterable[tuple[Place, str]],
        classes: Iterable[Sequence[str]],
        large: dict[str, Place],
        names: int,
    ) -> None:
        self.headers = sorted(headers)
        self.classes = list(classes)
        self.large = large
        self.names = names


def in_time(traces: Traces) -> list[str] | None:
    """Return the layers in the order in which they were written; None if the order is not certain."""
    last = {layer: place for place, layer in traces.headers}
    edges: Edges = {layer: set() for layer in last}
    for chain in (*traces.classes, sorted(traces.large, key=traces.large.__getitem__)):
        _follow(edges, chain)
    sure = {layer: set(after) for layer, after in edges.items()}
    first = _sorted(edges)[0]
    if first is None:
        return None
    latest: dict[str, Place] = {layer: (-1, 0) for layer in last}  # last header of the layers certain to precede it
    for layer in first:
        for after in edges[layer]:
            latest[after] = max(latest[after], latest[layer], last[layer])
    hidden = {layer for layer in last if latest[layer] > last[layer]}
    seen = [layer for layer in sorted(last, key=last.__getitem__) if layer not in hidden]
    _follow(edges, seen)
    neighbours = [(a, b) for (_, a), (_, b) in itertools.pairwise(traces.headers) if a != b]
    for before, after in neighbours:
        if after in hidden:
            edges[before].add(after)  # the layer before a hole is older than the layer in it
    second = _sorted(edges)[0]
    if second is None:
        return None
    rank = {layer: number for number, layer in enumerate(seen)}
    since = {layer: rank.get(layer, -1) for layer in last}
    for layer in second:
        for after in edges[layer]:
            since[after] = max(since[after], since[layer])
    for before, after in neighbours:
        if before in hidden and after not in hidden and rank[after] > since[before]:
            edges[before].add(after)  # it starts in the hole and continues after everything older
    first_large = _LAYER * len(seen) / (2 * traces.names or 1)  # first layer that might find a large enough hole
    if _is_doubtful(neighbours, sure, hidden, rank, since, first_large):
        return None
    found, is_only = _sorted(edges)
    return found if is_only else None


def _is_doubtful(
    neighbours: list[tuple[str, str]],
    sure: Edges,
    hidden: set[str],
    rank: dict[str, int],
    since: dict[str, int],
    first_large: float,
) -> bool:
    """Return whether a layer may be hidden unnoticed: much later layers are next to it, and no order excludes this."""
    beside: dict[str, int] = {}
    for one, other in neighbours:
        beside[one] = max(beside.get(one, -1), since[other])
        beside[other] = max(beside.get(other, -1), since[one])
    return any(
        far > max(rank[layer] + _NEAR, first_large) and all(since[after] >= far for after in sure[layer])
        for layer, far in beside.items()
        if layer not in hidden
    )


def _follow(edges: Edges, chain: Sequence[str]) -> None:
    for before, after in itertools.pairwise(chain):
        edges[before].add(after)


def _sorted(edges: Edges) -> tuple[list[str] | None, bool]:
    """Return a topological order, or None if the edges form a cycle; and whether it is the only one."""
    before = dict.fromkeys(edges, 0)
    for afters in edges.values():
        for after in afters:
            before[after] += 1
    ready = [layer for layer, count in before.items() if not count]
    found: list[str] = []
    is_only = True
    while ready:
        is_only &= len(ready) == 1
        layer = ready.pop()
        found.append(layer)
        for after in edges[layer]:
            before[after] -= 1
            if not before[after]:
                ready.append(after)
    return (found, is_only) if len(found) == len(edges) else (None, False)
