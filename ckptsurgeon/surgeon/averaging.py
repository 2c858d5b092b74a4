"""Average: variables over several checkpoints. Planned from metadata only."""

from __future__ import annotations

from .. import schemes
from ..checkpoint import Variable
from ..errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean
from ..plan import Change, Elements, Plan, plan_of
from .editing import is_float
from .selection import Selection
from .slots import SlotPolicy, without_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint

_LARGE = 1 << 20  # elements of a variable for which a second thread is worth its start


def average(
    checkpoints: Sequence[Checkpoint], selection: Selection, weights: Sequence[float] = (), slots: str = "keep"
) -> Plan:
    """Average variables over checkpoints, in float64; integers, strings and the rest are copied from the first.

    Args:
        checkpoints: open; their names must agree in what is averaged.
        selection: which variables of the first; slots follow only `slots`. An empty selection means all.
        weights: one for each checkpoint, with a sum other than 0; by default equal.
        slots: see `SlotPolicy`; `copy` averages them too.

    Raises:
        UsageError: fewer than two checkpoints, or invalid weights.
        RefusedError: a variable is missing in one of them, or of another shape or kind there.
        Problems: several of these.
    """
    policy, first = SlotPolicy(slots), checkpoints[0]
    if len(checkpoints) < 2:
        raise UsageError("cannot average a single checkpoint", path=first.path, expected="two or more")
    shares = list(weights) or [1.0] * len(checkpoints)
    total = sum(shares)
    if len(shares) != len(checkpoints) or not all(abs(share) < float("inf") for share in shares) or total == 0:
        found = ",".join(f"{share:g}" for share in shares)
        expected = f"{len(checkpoints)} finite numbers whose sum is not 0"
        raise UsageError("invalid --weights", expected=expected, found=found)
    shares = [share / total for share in shares]
    chosen = without_slots(first, selection.variables(first))
    problems: list[CkptSurgeonError] = []
    changes = policy.changes(first, [variable.name for variable in chosen], problems)
    if policy.action == "copy":
        owned = schemes.slots_by_variable(first)
        chosen += [first[slot] for variable in chosen for slot in owned.get(variable.name, [])]
    for variable in chosen:
        if not _is_averaged(variable.dtype):
            changes.append(Change("kept", variable, reason=f"{variable.dtype}: the first one's"))
            continue
        members = [_member(other, variable, problems) for other in checkpoints[1:]]
        parts = [(first, variable), *(member for member in members if member)]
        changes.append(Change("averaged", variable, Elements(_mean(parts, shares, variable))))
    if not any(_is_averaged(variable.dtype) for variable in chosen):
        found = " and ".join(sorted({variable.dtype for variable in chosen}))
        problems.append(
            UsageError("the selection holds nothing to average", path=first.path, expected="floats", found=found)
        )
    check(problems)
    return plan_of(first, changes)


def _member(
    checkpoint: Checkpoint, variable: Variable, problems: list[CkptSurgeonError]
) -> tuple[Checkpoint, Variable] | None:
    """The variable of this name in another checkpoint, or None and a problem."""
    other = checkpoint.find(variable.name)
    if other is None:
        hint = did_you_mean(variable.name, checkpoint.variables) or "--exclude leaves it out"
        what = f"no variable {variable.name}, which the first checkpoint has"
        problems.append(RefusedError(what, path=checkpoint.path, hint=hint))
    elif (
        other.shape != variable.shape
        or not _is_averaged(other.dtype)
        or (other.dtype.startswith("complex") and not variable.dtype.startswith("complex"))
    ):
        problems.append(
            RefusedError(
                f"{variable.name} differs from the first checkpoint's",
                path=checkpoint.path,
                expected=f"{variable.dtype} {list(variable.shape)}",
                found=f"{other.dtype} {list(other.shape)}",
                hint="--exclude leaves it out",
            )
        )
    else:
        return checkpoint, other
    return None


def _mean(
    parts: list[tuple[Checkpoint, Variable]], shares: list[float], like: Variable
) -> Callable[[], Iterator[NDArray[Any]]]:
    def make() -> Iterator[NDArray[Any]]:
        from .. import numeric
        from ..prefetch import prefetched

        elements = [checkpoint.elements(variable) for checkpoint, variable in parts]
        mean = numeric.mean(elements, shares, like.dtype)
        return mean if like.size < _LARGE else prefetched(mean)

    return make


def _is_averaged(dtype: str) -> bool:
    return is_float(dtype) or dtype.startswith("complex")
