"""Verifies that a checkpoint's bytes match its metadata, through the interface that all formats have."""

from __future__ import annotations

import os

from ..errors import CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError, files
from ..names import natural_order
from ..source import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..checkpoint import Checkpoint, Extent, Variable

_READ = 1 << 20  # bytes read at a time for checksums: the fastest size measured
_CAN_BE_NAN = ("float", "bfloat", "complex")  # dtype-name prefixes


class Finding:
    """The result of one check.

    Attributes:
        file: path of the file.
        name: of the variable; None if the finding is about the file.
        problem: what is wrong or noteworthy; None if all is well.
        ok: whether it is sound.
    """

    __slots__ = ("file", "name", "ok", "problem")

    def __init__(self, file: str, name: str | None, problem: str | None, ok: bool) -> None:
        self.file = file
        self.name = name
        self.problem = problem
        self.ok = ok


def verify(checkpoint: Checkpoint, finite: bool = False) -> Iterator[Finding]:
    """Check every checksum and bound, and look for overlaps and gaps.

    Args:
        checkpoint: open.
        finite: look for NaN and infinities too, which takes NumPy.

    Yields:
        A finding for each file with gaps or overlaps, then one for each variable, in the order of the data.
    """
    for oddity in checkpoint.oddities():
        yield Finding(checkpoint.path, None, oddity, False)
    bare = set(checkpoint.data_files)
    for file, extents in _by_file(checkpoint).items():
        if file in bare:
            yield from _holes(file, extents)
    missing: set[str] = set()
    for variable in _in_data_order(checkpoint):
        file = variable.extents[0].file if variable.extents else checkpoint.path
        if any(extent.file in missing for extent in variable.extents):
            continue  # reported once per file
        problem = None
        try:
            if finite and variable.dtype.startswith(_CAN_BE_NAN):
                problem = _not_finite(checkpoint, variable)
            else:
                _check(checkpoint, variable)
        except NotFoundError as error:
            missing.add(error.path or file)
            yield Finding(error.path or file, None, "missing", False)
        except DamagedError as error:
            yield Finding(error.path or file, variable.name, _phrase(error), False)
        else:
            yield Finding(file, variable.name, problem, problem is None)


def check_bounds(checkpoint: Checkpoint) -> None:
    """Check that all data files exist and are long enough, without reading them.

    Raises:
        NotFoundError: a file is missing.
        DamagedError: a file is too short.
    """
    for file, extents in _by_file(checkpoint).items():
        with files(file):
            size = size_of(file)
        needed = max(extent.offset + extent.length for extent in extents)
        if size < needed:
            raise DamagedError("cut short", path=file, expected=f"at least {needed} bytes", found=size)


def damage(path: str, error: CkptSurgeonError) -> Finding:
    """The finding for a checkpoint that cannot be opened."""
    return Finding(error.path or path, None, _phrase(error), False)


def dead_bytes(checkpoint: Checkpoint) -> int:
    """As `unreferenced`.

    Raises:
        NotFoundError: a data file is missing.
    """
    dead = unreferenced(checkpoint)
    if dead is None:
        missing = next((file for file in checkpoint.data_files if not os.path.exists(file)), checkpoint.path)
        raise NotFoundError("no such file", path=missing)
    return dead


def unreferenced(checkpoint: Checkpoint) -> int | None:
    """Bytes in the data files that no variable refers to; None if a data file is missing."""
    extents = _by_file(checkpoint)
    total = 0
    try:
        for file in checkpoint.data_files:
            total += size_of(file) - sum(end - start for start, end in _covered(extents.get(file, [])))
    except OSError:
        return None
    return total


def _phrase(error: CkptSurgeonError) -> str:
    return str(type(error)(error.what, expected=error.expected, found=error.found, hint=None))


def _by_file(checkpoint: Checkpoint) -> dict[str, list[Extent]]:
    found: dict[str, list[Extent]] = {}
    for variable in checkpoint.variables.values():
        for extent in variable.extents:
            found.setdefault(extent.file, []).append(extent)
    return found


def _in_data_order(checkpoint: Checkpoint) -> list[Variable]:
    """Variables in the order of their bytes on disk, the fastest order to read."""

    def place(variable: Variable) -> tuple[str, int]:
        first = variable.extents[0] if variable.extents else None
        return (first.file, first.offset) if first else ("", 0)

    return sorted(natural_order(checkpoint.variables.values()), key=place)


def _covered(extents: list[Extent]) -> list[tuple[int, int]]:
    """The spans (start, end) that extents cover together."""
    spans: list[tuple[int, int]] = []
    for extent in sorted(extents, key=lambda extent: extent.offset):
        start, end = extent.offset, extent.offset + extent.length
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _holes(file: str, extents: list[Extent]) -> Iterator[Finding]:
    """Finds overlaps, which are damage unless two variables share all their bytes, and gaps, which are harmless."""
    end = 0
    for start, length in sorted({(extent.offset, extent.length) for extent in extents if extent.length}):
        if start < end:
            yield Finding(file, None, f"variables overlap at byte {start}", False)
        end = max(end, start + length)
    try:
        size = size_of(file)
    except OSError:
        return  # reported when its variables are read
    gaps = size - sum(stop - start for start, stop in _covered(extents))
    if gaps > 0:
        yield Finding(file, None, f"{gaps} bytes that no variable refers to", True)


def _check(checkpoint: Checkpoint, variable: Variable) -> None:
    """As `Checkpoint.check`; of what is stored bare, in larger reads."""
    sound = checkpoint.has_bare_extents and variable.is_numeric and bool(variable.extents)
    for extent in variable.extents:
        sound = sound and extent.crc is not None and _checksum(checkpoint, extent) == extent.crc
    if not sound:
        checkpoint.check(variable)  # raises the error


def _checksum(checkpoint: Checkpoint, extent: Extent) -> int | None:
    """The masked CRC-32C of an extent's bytes; None if bytes are missing."""
    from ..formats.tensorflow.wire import crc32c, mask

    file, crc, left = checkpoint.file(extent.file), 0, extent.length
    with files(extent.file):
        while left:
            data = file.read(extent.offset + extent.length - left, min(_READ, left))
            if not data:
                return None
            crc = crc32c(data, crc)
            left -= len(data)
            del data  # so that the next read reuses its memory, which is in the processor's cache
    return mask(crc)


def _not_finite(checkpoint: Checkpoint, variable: Variable) -> str | None:
    """How many values are NaN or infinite, or None; reads them once, and all checksums are verified."""
    import numpy as np

    from .. import numeric

    nan = infinite = 0
    try:
        for some in checkpoint.elements(variable):
            values = numeric.portable(some)
            if not np.isfinite(values).all():
                nan += int(np.isnan(values).sum())
                infinite += int(np.isinf(values).sum())
    except UnsupportedError:  # the container cannot represent the dtype, but the bytes may be sound
        checkpoint.check(variable)
        return None
    counts = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"{' and '.join(counts)} of {variable.size} values" if counts else None
