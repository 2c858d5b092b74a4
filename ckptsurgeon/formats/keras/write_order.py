"""The order in which the layers of a `.weights.h5` were written, told by where things stand in the file. Pure.

Keras writes layers one after the other, and libhdf5 puts headers one behind the other, but for those that fit into
holes, which others left that had to grow. So a layer's last header tells its time, unless all of them went into a hole.
What else is sure: the numbers in the names of one class rise, and so do the places of values too large for any hole.
By these a layer in a hole is found out, and its neighbours in the hole tell its time then. Where that leaves a doubt,
there is no order. Observed on files of up to 800 layers.
"""

from __future__ import annotations

import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Place = tuple[int, int]  # number of the part, offset in it
    Edges = dict[str, set[str]]

_LAYER = 1088  # bytes: what the headers of a layer take at least, two nodes of groups
_NEAR = 2  # layers written one after the other, whose small headers may stand among each other's


class Traces:
    """What a file tells of when its layers were written.

    Attributes:
        headers: where headers stand, and whose they are.
        classes: for each class the layers of it, in the order of their numbers.
        large: layers with values that are too large for a hole, and where these begin.
        names: bytes of the names of all groups beside them: as large are the holes at last.
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
    """The layers in the order in which they were written; None if the file leaves doubts."""
    last = {layer: place for place, layer in traces.headers}
    edges: Edges = {layer: set() for layer in last}
    for chain in (*traces.classes, sorted(traces.large, key=traces.large.__getitem__)):
        _follow(edges, chain)
    sure = {layer: set(after) for layer, after in edges.items()}
    first = _sorted(edges)[0]
    if first is None:
        return None
    latest: dict[str, Place] = {layer: (-1, 0) for layer in last}  # header of what is before it for sure
    for layer in first:
        for after in edges[layer]:
            latest[after] = max(latest[after], latest[layer], last[layer])
    hidden = {layer for layer in last if latest[layer] > last[layer]}
    seen = [layer for layer in sorted(last, key=last.__getitem__) if layer not in hidden]
    _follow(edges, seen)
    neighbours = [(a, b) for (_, a), (_, b) in itertools.pairwise(traces.headers) if a != b]
    for before, after in neighbours:
        if after in hidden:
            edges[before].add(after)  # what stands before a hole is older than what is put into it
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
            edges[before].add(after)  # it begins in the hole, and goes on behind all that is older
    first_large = _LAYER * len(seen) / (2 * traces.names or 1)  # when the first hole comes that a layer fits into
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
    """Whether a layer may be in a hole though nothing shows it: much later ones beside it, and none that bars it."""
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
    """An order in which every edge leads on, None if there is none; and whether it is the only one."""
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
