"""Diff: which variables of two checkpoints differ, and by how much.

Where both store checksums of the same bytes, these answer, and no data file is opened. Else the stored bytes are
compared where both store values alike, and decoded values where they do not: a chunk at a time.
"""

from __future__ import annotations

from .. import schemes
from ..checkpoint import Extent
from ..errors import CkptSurgeonError, DamagedError, UnsupportedError, UsageError, files
from ..names import natural_key
from ..surgeon.selection import Selection, matching

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..checkpoint import Checkpoint, Variable
    from ..source import Source
    from .distance import Distance

    Pairs = list[tuple[Extent, Extent]]

_FEW = 4  # checkpoints that share less than one name in so many are two layouts, whose layers pair
_READ = 1 << 20  # bytes that are read at a time to be compared: smaller reads take longer, larger ones no less


class Difference:
    """What became of one variable.

    Attributes:
        status: `same`, `changed` (other values), `dtype` (another one), `shape` (the same dtype, another shape),
            `added` (only in the second checkpoint) or `removed` (only in the first).
        name: of the variable.
        name_b: its name in the second checkpoint; None where it is not there.
        max_abs: the largest distance of two elements, if it was asked for and they are numbers.
        rel_l2: the norm of the difference, as a share of the first one's norm; None as `max_abs`.
    """

    __slots__ = ("max_abs", "name", "name_b", "rel_l2", "status")

    def __init__(
        self,
        status: str,
        name: str,
        name_b: str | None,
        max_abs: float | None = None,
        rel_l2: float | None = None,
    ) -> None:
        self.status = status
        self.name = name
        self.name_b = name_b
        self.max_abs = max_abs
        self.rel_l2 = rel_l2

    def __repr__(self) -> str:
        return f"Difference({self.status!r}, {self.name!r})"


def diff(
    a: Checkpoint,
    b: Checkpoint,
    selection: Selection | None = None,
    *,
    exact: bool = False,
    values: bool = False,
    tolerance: float | None = None,
) -> list[Difference]:
    """Compare two checkpoints, variables of one name with each other; of other layouts, those of one layer that pair.

    Args:
        a: open.
        b: open.
        selection: of variables, counted on `a`; of those that `b` alone has, what it would select there.
        exact: compare bytes, whatever the checksums say.
        values: tell how far numbers are from each other.
        tolerance: numbers count as the same if no element is further than that from the other one.

    Returns:
        One for each variable, those that are the same among them, in natural order.

    Raises:
        UsageError: the options contradict each other, or a pattern matches nothing in either.
        NotFoundError: a data file that is needed is missing.
        DamagedError: values that had to be decoded are damaged.
    """
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"--tolerance {tolerance} is no distance", expected="0 or more")
    if tolerance is not None and exact:
        raise UsageError("--exact compares bytes, --tolerance values", expected="one of them")
    selection = selection or Selection()
    ours, theirs = _selected(a, b, selection)
    names: dict[str, str] = {}
    if any(one.name not in b.variables for one in ours) or any(other.name not in a.variables for other in theirs):
        names = _namesakes(a, b, selection.scheme)
    others = set(names.values())
    gone = [one for one in ours if one.name not in b.variables and one.name not in names]
    new = [other for other in theirs if other.name not in a.variables and other.name not in others]
    found = [Difference("removed", one.name, None) for one in gone]
    found += [Difference("added", other.name, other.name) for other in new]
    comparison = _Comparison(a, b, exact, values, tolerance)
    pairs = [(one, b.variables[one.name]) for one in ours if one.name in b.variables]
    pairs += _renamed(a, b, selection, names, {each.name for each in [*ours, *theirs]}) if names else []
    for one, other in sorted(pairs, key=lambda pair: _place(pair[0])):  # read as they lie on disk, which is fastest
        found.append(comparison.compare(one, other))
    return sorted(found, key=lambda each: natural_key(each.name))


def _place(variable: Variable) -> tuple[str, int]:
    first = variable.extents[0] if variable.extents else None
    return (first.file, first.offset) if first else ("", 0)


def _namesakes(a: Checkpoint, b: Checkpoint, scheme: str | None) -> dict[str, str]:
    """What pairs of two checkpoints that have nearly no name in common: name in `a` -> another one in `b`."""
    from ..surgeon import naming

    fewer, more = sorted((a.variables, b.variables), key=len)
    if sum(name in more for name in fewer) * _FEW >= len(fewer):
        return {}
    try:
        return naming.Pairs(a, b, Selection("all", scheme=scheme)).all()
    except CkptSurgeonError:  # the layers of one are not to be told
        return {}


def _renamed(
    a: Checkpoint, b: Checkpoint, selection: Selection, names: dict[str, str], selected: set[str]
) -> list[tuple[Variable, Variable]]:
    """What pairs under two names, if either is selected and neither left out."""
    out = {each.name for pattern in selection.exclude for side in (a, b) for each in matching(side, pattern)}
    chosen = [pair for pair in names.items() if not selected.isdisjoint(pair) and out.isdisjoint(pair)]
    return [(a[name], b[other]) for name, other in chosen]


def _selected(a: Checkpoint, b: Checkpoint, selection: Selection) -> tuple[list[Variable], list[Variable]]:
    """What a selection, whose layers are counted on `a`, selects there and in `b`."""
    # What matches in b alone is no mistake: it is what was added.
    match = [pattern for pattern in selection.match if matching(a, pattern) or not matching(b, pattern)]
    exclude = [pattern for pattern in selection.exclude if matching(a, pattern) or not matching(b, pattern)]
    ours: list[Variable] = []
    if selection.layers is not None or match or not selection.match:
        ours = Selection(selection.layers, match, exclude, selection.scheme).variables(a)
    theirs: dict[str, Variable] = dict(b.variables) if selection.is_empty else {}
    if selection.layers is not None:
        layers = _layers(a, b, selection)
        theirs.update((variable.name, variable) for variable in layers)
    for pattern in selection.match:
        theirs.update((variable.name, variable) for variable in matching(b, pattern))
    for pattern in selection.exclude:
        for variable in matching(b, pattern):
            theirs.pop(variable.name, None)
    return ours, list(theirs.values())


def _layers(a: Checkpoint, b: Checkpoint, selection: Selection) -> list[Variable]:
    """The variables of `b` in the layers that a selection means on `a`."""
    scheme = schemes.find(a, selection.scheme)
    numbers = schemes.parse_layers(selection.layers or "", list(scheme.layers(a)), a.path)
    try:
        found = schemes.find(b, selection.scheme).layers(b)
    except UsageError:
        found = scheme.layers(b)  # its own names fit none, or several
    return [variable for number in numbers for variable in found.get(number, [])]


class _Comparison:
    """Compares variables of two checkpoints."""

    def __init__(self, a: Checkpoint, b: Checkpoint, exact: bool, values: bool, tolerance: float | None) -> None:
        self.a = a
        self.b = b
        self.exact = exact
        self.values = values
        self.tolerance = tolerance
        self._bare = a.has_bare_extents and b.has_bare_extents and a.byteorder == b.byteorder
        self._alike = self._bare and a.format == b.format
        self._buffers = bytearray(), bytearray()
        self._files: dict[tuple[bool, str], tuple[Source, int]] = {}  # with its size

    def compare(self, one: Variable, other: Variable) -> Difference:
        """What became of a variable of `a` that `b` has too."""
        if one.dtype != other.dtype:
            return Difference("dtype", one.name, other.name)
        if one.shape != other.shape:
            return Difference("shape", one.name, other.name)
        same = None if self.exact else self._by_checksums(one, other)
        measured = None
        if one.is_numeric and not same and (self.values or self.tolerance is not None):
            measured = self._measured(one, other)
        if measured is not None and self.tolerance is not None:
            same = measured.max_abs <= self.tolerance
        elif same is None:
            same = measured.is_equal if measured is not None else self._by_bytes(one, other)
        result = Difference("same" if same else "changed", one.name, other.name)
        if self.values and measured is not None:
            result.max_abs, result.rel_l2 = measured.max_abs, measured.rel_l2
        elif self.values and same and one.is_numeric:
            result.max_abs = result.rel_l2 = 0.0
        return result

    def _by_checksums(self, one: Variable, other: Variable) -> bool | None:
        """Whether stored checksums say that two variables are the same; None if they cannot tell."""
        pairs = _pairs(one, other) if self._alike else None
        if not pairs or any(x.crc is None or y.crc is None for x, y in pairs):
            return None
        return all((x.length, x.crc) == (y.length, y.crc) for x, y in pairs)

    def _by_bytes(self, one: Variable, other: Variable) -> bool:
        """Whether two variables hold the same bytes, once decoded."""
        pairs = self._stored_pairs(one, other)
        if pairs is not None:
            return all(x.length == y.length for x, y in pairs) and all(self._hold_the_same(x, y) for x, y in pairs)
        from . import distance

        try:
            both = _aligned(self.a.elements(one), self.b.elements(other), one.name)
            return all(distance.are_equal(x, y) for x, y in both)
        except UnsupportedError:  # variants, pickled objects: as they are stored
            return [extent.length for extent in one.extents] == [extent.length for extent in other.extents] and all(
                x == y for x, y in _aligned(_stored(self.a, one), _stored(self.b, other), one.name)
            )

    def _stored_pairs(self, one: Variable, other: Variable) -> Pairs | None:
        """The extents of two variables that must hold the same bytes; None if equal values may be stored otherwise."""
        if not self._bare or not one.extents or not other.extents:
            return None  # where a container packs values, a variable has no extents
        if not one.is_numeric and one.extents[0].crc is None:
            return None  # strings that are padded to one length, which may differ
        if self._alike:
            pairs = _pairs(one, other)
            if pairs is not None:
                return pairs
        ours, theirs = _in_order(one), _in_order(other)
        if not one.is_numeric or ours is None or theirs is None:
            return None
        if sum(extent.length for extent in ours) != sum(extent.length for extent in theirs):
            return None  # elements of less than a byte, which one format packs
        return _cut_alike(ours, theirs)

    def _hold_the_same(self, x: Extent, y: Extent) -> bool:
        """Whether two extents of one length hold the same bytes; what is one place of one file is not read."""
        if not x.length:
            return True
        file_x, file_y = self._file(False, x), self._file(True, y)
        if x.offset == y.offset and file_x.identity == file_y.identity:
            return True
        if x.length >= _READ and not self._buffers[0]:
            self._buffers = bytearray(_READ), bytearray(_READ)
        full, rest = divmod(x.length, _READ)
        ours, theirs = self._buffers
        for at in range(0, full * _READ, _READ):
            with files(x.file):
                count = file_x.read_into(x.offset + at, ours)
            with files(y.file):
                count += file_y.read_into(y.offset + at, theirs)
            if count != 2 * _READ:
                raise DamagedError("cut short while it was read", path=f"{x.file} or {y.file}")
            if ours != theirs:
                return False
        if not rest:
            return True
        with files(x.file):
            end = file_x.read(x.offset + full * _READ, rest)
        with files(y.file):
            return len(end) == rest and end == file_y.read(y.offset + full * _READ, rest)

    def _file(self, is_b: bool, extent: Extent) -> Source:
        """The file that an extent is in, which holds all of it.

        Raises:
            DamagedError, NotFoundError: it is not.
        """
        checkpoint = self.b if is_b else self.a
        opened = self._files.get((is_b, extent.file))
        if opened is None:
            file = checkpoint.file(extent.file)
            opened = self._files[is_b, extent.file] = file, file.size
        if extent.offset + extent.length > opened[1]:
            for _ in checkpoint.chunks(extent):  # which says so
                pass
        return opened[0]

    def _measured(self, one: Variable, other: Variable) -> Distance | None:
        """How far two variables are from each other; None of what cannot be read."""
        from .distance import Distance

        measure = Distance()
        try:
            for x, y in _aligned(self.a.elements(one), self.b.elements(other), one.name):
                measure.add(x, y)
        except UnsupportedError:
            return None
        return measure


def _aligned(one: Iterator[Any], other: Iterator[Any], name: str) -> Iterator[tuple[Any, Any]]:
    """The pieces of two streams, cut so that those beside each other have one length; none is empty.

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


def _stored(checkpoint: Checkpoint, variable: Variable) -> Iterator[bytes]:
    for extent in variable.extents:
        yield from checkpoint.chunks(extent)


def _pairs(one: Variable, other: Variable) -> Pairs | None:
    """The extents of two variables of one shape that hold the same slice; None if they are partitioned otherwise."""
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


def _in_order(variable: Variable) -> list[Extent] | None:
    """The extents whose bytes, one after the other, are the values in C order; None if these are no such extents."""
    if variable.slices is None:
        return list(variable.extents)
    parts = _by_slice(variable)
    if len(parts) != len(variable.extents) or any(
        length != size for part in parts for (_, length), size in zip(part[1:], variable.shape[1:], strict=True)
    ):
        return None
    return [parts[part] for part in sorted(parts)]


def _cut_alike(ours: list[Extent], theirs: list[Extent]) -> Pairs:
    """Two lists of extents, of as many bytes together, cut where either has a cut."""
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
