"""Compares and verifies checkpoints through the interface that all formats have.

    verifying     checksums, bounds, gaps and overlaps
    differences   which variables of two checkpoints differ (`diff`)
    comparison    compares two variables
    pairing       which extents of two variables must hold the same bytes
    distance      how far values are from each other
    summary       statistics of one variable

The names below are imported when they are first used, so that a command loads only what it needs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .verifying import Finding as Finding
    from .verifying import check_bounds as check_bounds
    from .verifying import damage as damage
    from .verifying import dead_bytes as dead_bytes
    from .verifying import unreferenced as unreferenced
    from .verifying import verify as verify

_VERIFYING = ("Finding", "check_bounds", "damage", "dead_bytes", "unreferenced", "verify")


def __getattr__(name: str) -> object:
    if name not in _VERIFYING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import verifying

    value: object = getattr(verifying, name)
    globals()[name] = value  # the next use finds it there
    return value
