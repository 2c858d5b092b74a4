"""Compares variables of two checkpoints: by checksums, stored bytes or decoded values, a chunk at a time."""

from __future__ import annotations

from ..errors import DamagedError, UnsupportedError, files
from .pairing import aligned, cut_alike, in_order, paired, stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint, Extent, Variable
    from ..source import Source
    from .distance import Distance
    from .pairing import Pairs

_READ = 1 << 20  # bytes that are read at a time to be compared: smaller reads take longer, larger ones no less


class Difference:
    """The comparison result of one variable.

    Attributes:
        status: `same`, `changed` (other values), `dtype` (another one), `shape` (the same dtype, another shape),
            `added` (only in the second checkpoint) or `removed` (only in the first).
        name: of the variable.
        name_b: its name in the second checkpoint; None if it is not there.
        max_abs: the largest distance between two elements; None if not asked for, or not numeric.
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


class Comparison:
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
        """Compare a variable of `a` with one of `b`."""
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
        """Whether two variables have the same checksums; None if the checksums are not comparable."""
        pairs = paired(one, other) if self._alike else None
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
            both = aligned(self.a.elements(one), self.b.elements(other), one.name)
            return all(distance.are_equal(x, y) for x, y in both)
        except UnsupportedError:  # variants, pickled objects: as they are stored
            return [extent.length for extent in one.extents] == [extent.length for extent in other.extents] and all(
                x == y for x, y in aligned(stored(self.a, one), stored(self.b, other), one.name)
            )

    def _stored_pairs(self, one: Variable, other: Variable) -> Pairs | None:
        """The extents of two variables that must hold the same bytes; None if equal values may be stored otherwise."""
        if not self._bare or not one.extents or not other.extents:
            return None  # where a container packs values, a variable has no extents
        if not one.is_numeric and one.extents[0].crc is None:
            return None  # strings that are padded to one length, which may differ
        if self._alike:
            pairs = paired(one, other)
            if pairs is not None:
                return pairs
        ours, theirs = in_order(one), in_order(other)
        if not one.is_numeric or ours is None or theirs is None:
            return None
        if sum(extent.length for extent in ours) != sum(extent.length for extent in theirs):
            return None  # elements smaller than a byte, which only one of the formats packs
        return cut_alike(ours, theirs)

    def _hold_the_same(self, x: Extent, y: Extent) -> bool:
        """Whether two extents of equal length hold the same bytes; the same range of the same file is not read."""
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
        """The file of an extent, long enough to hold all of it.

        Raises:
            DamagedError, NotFoundError: the file is too short, or missing.
        """
        checkpoint = self.b if is_b else self.a
        opened = self._files.get((is_b, extent.file))
        if opened is None:
            file = checkpoint.file(extent.file)
            opened = self._files[is_b, extent.file] = file, file.size
        if extent.offset + extent.length > opened[1]:
            for _ in checkpoint.chunks(extent):  # raises the error
                pass
        return opened[0]

    def _measured(self, one: Variable, other: Variable) -> Distance | None:
        """The distance between two variables; None if their values cannot be read."""
        from .distance import Distance

        measure = Distance()
        try:
            for x, y in aligned(self.a.elements(one), self.b.elements(other), one.name):
                measure.add(x, y)
        except UnsupportedError:
            return None
        return measure
