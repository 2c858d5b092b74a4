"""Diff: which variables of two checkpoints differ, and by how much.

If both store checksums of the same bytes, the checksums decide and no data file is opened. Otherwise stored bytes are
compared if both formats store values in the same way, and decoded values if not, a chunk at a time.
"""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, UsageError
from ..names import natural_key
from ..surgeon.selection import Selection, matching
from .comparison import Comparison, Difference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint, Variable

_FEW = 4  # if fewer than 1 in 4 names are shared, match the checkpoints by layer


def diff(
    a: Checkpoint,
    b: Checkpoint,
    selection: Selection | None = None,
    *,
    exact: bool = False,
    values: bool = False,
    tolerance: float | None = None,
) -> list[Difference]:
    """Compare two checkpoints by variable names, or by layer if their layouts differ.

    Args:
        a: open.
        b: open.
        selection: of variables, with layers numbered as in `a`; it also selects among those that only `b` has.
        exact: compare bytes even if checksums would decide.
        values: measure the distance between numbers.
        tolerance: numbers count as the same if no two elements differ by more than this.

    Returns:
        One for each variable, those that are the same among them, in natural order.

    Raises:
        UsageError: the options contradict each other, or a pattern matches nothing in either.
        NotFoundError: a data file that is needed is missing.
        DamagedError: values that had to be decoded are damaged.
    """
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"invalid --tolerance {tolerance}", expected="0 or more")
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
    comparison = Comparison(a, b, exact, values, tolerance)
    pairs = [(one, b.variables[one.name]) for one in ours if one.name in b.variables]
    pairs += _renamed(a, b, selection, names, {each.name for each in [*ours, *theirs]}) if names else []
    for one, other in sorted(pairs, key=lambda pair: _place(pair[0])):  # in disk order, which is the fastest
        found.append(comparison.compare(one, other))
    return sorted(found, key=lambda each: natural_key(each.name))


def _place(variable: Variable) -> tuple[str, int]:
    first = variable.extents[0] if variable.extents else None
    return (first.file, first.offset) if first else ("", 0)


def _namesakes(a: Checkpoint, b: Checkpoint, scheme: str | None) -> dict[str, str]:
    """Pairs of variables of two checkpoints with hardly a name in common: name in `a` -> name in `b`."""
    from ..surgeon import naming

    fewer, more = sorted((a.variables, b.variables), key=len)
    if sum(name in more for name in fewer) * _FEW >= len(fewer):
        return {}
    try:
        return naming.Pairs(a, b, Selection("all", scheme=scheme)).all()
    except CkptSurgeonError:  # the layers of one are unknown
        return {}


def _renamed(
    a: Checkpoint, b: Checkpoint, selection: Selection, names: dict[str, str], selected: set[str]
) -> list[tuple[Variable, Variable]]:
    """Pairs with two names of which either is selected and neither is excluded."""
    out = {each.name for pattern in selection.exclude for side in (a, b) for each in matching(side, pattern)}
    chosen = [pair for pair in names.items() if not selected.isdisjoint(pair) and out.isdisjoint(pair)]
    return [(a[name], b[other]) for name, other in chosen]


def _selected(a: Checkpoint, b: Checkpoint, selection: Selection) -> tuple[list[Variable], list[Variable]]:
    """The variables of `a` and of `b` that a selection means, with layers numbered as in `a`."""
    # A pattern that matches only in b is not a mistake: it selects added variables.
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
    """The variables of `b` in the selected layers of `a`."""
    scheme = schemes.find(a, selection.scheme)
    numbers = schemes.parse_layers(selection.layers or "", list(scheme.layers(a)), a.path)
    try:
        found = schemes.find(b, selection.scheme).layers(b)
    except UsageError:
        found = scheme.layers(b)  # no scheme or several fit b's own names
    return [variable for number in numbers for variable in found.get(number, [])]
