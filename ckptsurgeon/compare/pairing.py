"""Pairs the stored pieces of two variables: extents that must hold the same bytes, and streams cut alike."""

from __future__ import annotations

from ..checkpoint import Extent
from ..errors import DamagedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..checkpoint import Checkpoint, Variable

    Pairs = list[tuple[Extent, Extent]]


def aligned(one: Iterator[Any], other: Iterator[Any], name: str) -> Iterator[tuple[Any, Any]]:
    """The pieces of two streams in pairs of equal length, none of them empty.

    Raises:
        DamagedError: one stream ends before the other.
    """
    x: Any = b""
    y: Any = b""
    while True:
        while x is not None and not len(x):
            x = next(one, None)
        while y is not None and not len(y):
            y = next(other, None)
        if x is None or y is None:
            if x is not y:
                raise DamagedError(f"damaged: too few values of {name}")
            return
        count = min(len(x), len(y))
        yield x[:count], y[:count]
        x, y = x[count:], y[count:]


def stored(checkpoint: Checkpoint, variable: Variable) -> Iterator[bytes]:
    """The stored bytes of a variable, extent by extent."""
    for extent in variable.extents:
        yield from checkpoint.chunks(extent)


def paired(one: Variable, other: Variable) -> Pairs | None:
    """The extents of two variables of one shape that hold the same slice; None if their partitions differ."""
    if one.slices == other.slices:
        return list(zip(one.extents, other.extents, strict=True))
    ours, theirs = _by_slice(one), _by_slice(other)
    if ours.keys() != theirs.keys() or len(ours) != len(one.extents) or len(theirs) != len(other.extents):
        return None
    return [(extent, theirs[part]) for part, extent in ours.items()]


def _by_slice(variable: Variable) -> dict[tuple[tuple[int, int], ...], Extent]:
    """The extents by what they hold: start and length, in numbers, in every dimension."""
    slices = variable.slices or (((0, -1),) * len(variable.shape),)
    return {
        tuple(
            (start, size if length < 0 else length) for (start, length), size in zip(part, variable.shape, strict=True)
        ): extent
        for part, extent in zip(slices, variable.extents, strict=True)
    }


def in_order(variable: Variable) -> list[Extent] | None:
    """The extents in an order in which their bytes are the values in C order; None if there is no such order."""
    if variable.slices is None:
        return list(variable.extents)
    parts = _by_slice(variable)
    if len(parts) != len(variable.extents) or any(
        length != size for part in parts for (_, length), size in zip(part[1:], variable.shape[1:], strict=True)
    ):
        return None
    return [parts[part] for part in sorted(parts)]


def cut_alike(ours: list[Extent], theirs: list[Extent]) -> Pairs:
    """Two lists of extents with equal totals, cut so that they pair one to one."""
    pairs: Pairs = []
    begun_x = begun_y = at_y = 0
    for x in ours:
        begun_x = 0
        while begun_x < x.length:
            y = theirs[at_y]
            count = min(x.length - begun_x, y.length - begun_y)
            pairs.append(
                (
                    Extent(x.file, x.offset + begun_x, count, None),
                    Extent(y.file, y.offset + begun_y, count, None),
                )
            )
            begun_x, begun_y = begun_x + count, begun_y + count
            if begun_y == y.length:
                at_y, begun_y = at_y + 1, 0
    return pairs
