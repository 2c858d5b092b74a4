"""Removes changes from a plan that would write the bytes already there."""

from __future__ import annotations

import os

from ..errors import CkptSurgeonError
from ..lean import partial
from ..plan import Copy, Elements, Fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint, Extent, Variable
    from ..plan import Change, Plan


def leave(plan: Plan, link: bool) -> None:
    """Drop changes that would write the bytes already there.

    Args:
        plan: changed in place.
        link: whether the donor's files are to be shared, so that equal bytes elsewhere do not count.
    """
    for change in plan.changes:
        content, equal = change.content, False
        if isinstance(content, Copy) and change.action != "added":
            equal = _are_equal(plan.recipient, change.variable, content, link)
        elif isinstance(content, Elements) and change.action == "grafted":
            equal = _gives_the_same(plan.recipient, change.variable, content.make)
        elif isinstance(content, Fill):
            equal = _gives_the_same(plan.recipient, change.variable, partial(_filled, content, change.variable))
        if equal:
            _mark(change)


def mark(plan: Plan) -> None:
    """Mark all variables of a plan as unchanged."""
    for change in plan.changes:
        _mark(change)


def _mark(change: Change) -> None:
    if isinstance(change.content, Elements):
        change.cast_from = change.content.cast_from
    change.content = None
    change.reason = "equal already"


def _are_equal(recipient: Checkpoint, variable: Variable, content: Copy, link: bool) -> bool:
    donor, other = content.donor, content.variable
    alike = donor.format == recipient.format and recipient.has_bare_extents and donor.byteorder == recipient.byteorder
    alike = alike and len(variable.extents) == len(other.extents) > 0  # of HDF5, what is not packed
    if alike and variable.slices == other.slices:
        pairs = list(zip(variable.extents, other.extents, strict=True))
        return all(_is_same_place(one, two) for one, two in pairs) or (
            not link
            and all((one.length, one.crc) == (two.length, two.crc) for one, two in pairs)
            and all(_hold_the_same(recipient, one, donor, two) for one, two in pairs)
        )
    if variable.dtype == "variant":
        return False
    same = recipient.holds_same_rows(variable, donor, other)
    if same is not None:
        return same
    try:
        ours, theirs = recipient.read(variable.name), donor.read(other.name)
    except CkptSurgeonError:
        return False  # writing will report the error
    if variable.dtype == "string":
        return bool(ours.tolist() == theirs.tolist())
    return bool(ours.tobytes() == theirs.tobytes())


def _gives_the_same(recipient: Checkpoint, variable: Variable, make: Callable[[], Iterator[NDArray[Any]]]) -> bool:
    """Whether a variable holds what is computed for it."""
    from .. import numeric

    try:
        return numeric.same(make(), recipient.elements(recipient[variable.name]))
    except CkptSurgeonError:
        return False  # writing will report the error


def _filled(content: Fill, variable: Variable) -> Iterator[NDArray[Any]]:
    import numpy as np

    from .. import numeric

    element = numeric.cast_exactly(np.asarray(content.number), numeric.dtype(variable.dtype), variable.name)
    yield np.broadcast_to(element, variable.size)


def _is_same_place(one: Extent, other: Extent) -> bool:
    """Whether two extents are the same bytes of the same file, under whatever names."""
    if (one.offset, one.length, one.crc) != (other.offset, other.length, other.crc):
        return False
    try:
        return os.path.samefile(one.file, other.file)
    except OSError:
        return False


def _hold_the_same(ours: Checkpoint, one: Extent, theirs: Checkpoint, other: Extent) -> bool:
    try:
        return all(a == b for a, b in zip(ours.chunks(one), theirs.chunks(other), strict=True))
    except CkptSurgeonError:
        return False  # writing will report the error
