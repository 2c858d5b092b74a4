"""The operations: each looks at metadata alone, reports all that is wrong at once, and returns a Plan."""

from __future__ import annotations

from . import schemes
from .errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean
from .plan import Change, Copy, Fill, Plan, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint, Variable
    from .selection import Selection


class SlotPolicy:
    """What becomes of the slots of grafted variables.

    Args:
        text: `keep` (the recipient's stay), `copy` (the donor's come along), `drop`, or `fill=NUMBER`.

    Raises:
        UsageError: none of these.
    """

    def __init__(self, text: str) -> None:
        self.action, _, number = text.partition("=")
        self.number = 0.0
        try:
            self.number = float(number) if self.action == "fill" else 0.0
        except ValueError:
            self.action = ""
        if self.action not in ("keep", "copy", "drop", "fill") or (number and self.action != "fill"):
            raise UsageError(f"--slots {text} is no policy", expected="keep, copy, drop or fill=NUMBER")


def graft(donor: Checkpoint, recipient: Checkpoint, selection: Selection, slots: str = "keep") -> Plan:
    """Rewrite the selected variables of the recipient with those of the donor.

    Args:
        donor: open; its names and layer numbers are what the selection means.
        recipient: open.
        selection: which variables; slots that it matches follow `slots` alone.
        slots: see `SlotPolicy`.

    Raises:
        UsageError: the selection selects nothing, or slots only.
        RefusedError: a variable is missing in the recipient, or is of another dtype, shape or partition there.
        Problems: several of these.
    """
    policy = SlotPolicy(slots)
    donor_slots = schemes.slots(donor)
    selected = selection.variables(donor)
    chosen = [variable for variable in selected if variable.name not in donor_slots]
    if not chosen:
        raise UsageError(
            "the selection matches slots only", path=donor.path, hint="select their variables, and --slots copy"
        )
    problems: list[CkptSurgeonError] = []
    changes = []
    for variable in chosen:
        changes += _graft_one(donor, recipient, variable, problems)
    if policy.action != "keep":
        grafted = [change.variable for change in changes]
        changes += _graft_slots(donor, recipient, grafted, policy, problems)
    check(problems)
    changes.sort(key=lambda change: schemes.natural_key(change.variable.name))
    return Plan(recipient, changes)


def _graft_one(
    donor: Checkpoint, recipient: Checkpoint, variable: Variable, problems: list[CkptSurgeonError]
) -> list[Change]:
    """The change that grafts one variable, or none and a problem."""
    target = recipient.find(variable.name)
    if target is None:
        problems.append(
            RefusedError(
                f"no variable {variable.name}, which the donor has",
                path=recipient.path,
                hint=did_you_mean(variable.name, recipient.variables) or "leave it out by --exclude",
            )
        )
        return []
    for kind, expected, found in (
        ("dtype", variable.dtype, target.dtype),
        ("shape", list(variable.shape), list(target.shape)),
        ("partition", variable.slices, target.slices),
    ):
        if expected != found:
            problems.append(
                RefusedError(
                    f"{variable.name} has another {kind} than the donor's",
                    path=recipient.path,
                    expected=expected,
                    found=found,
                    hint="leave it out by --exclude",
                )
            )
            return []
    if donor.byteorder != recipient.byteorder and not variable.is_numeric:
        problems.append(
            RefusedError(
                f"{variable.name} is of dtype {variable.dtype}, which cannot change its byte order",
                path=recipient.path,
                expected=recipient.byteorder,
                found=donor.byteorder,
                hint="leave it out by --exclude",
            )
        )
        return []
    return [Change("grafted", target, Copy(donor, variable), variable.name)]


def _graft_slots(
    donor: Checkpoint,
    recipient: Checkpoint,
    grafted: list[Variable],
    policy: SlotPolicy,
    problems: list[CkptSurgeonError],
) -> list[Change]:
    """What the policy does to the slots of the grafted variables."""
    changes = []
    theirs, ours = schemes.slots_by_variable(donor), schemes.slots_by_variable(recipient)
    for variable in grafted:
        mine = ours.get(variable.name, [])
        if policy.action == "drop":
            changes += [Change("dropped", recipient[slot]) for slot in mine]
        elif policy.action == "fill":
            changes += [_fill(recipient[slot], policy.number, problems) for slot in mine]
        else:
            donated = theirs.get(variable.name, [])
            for slot in donated:
                changes += _graft_one(donor, recipient, donor[slot], problems)
            for slot in sorted(set(mine) - set(donated)):
                problems.append(
                    RefusedError(f"no slot {slot}, which the recipient has", path=donor.path, hint="--slots keep")
                )
    return changes


def _fill(variable: Variable, number: float, problems: list[CkptSurgeonError]) -> Change:
    import numpy as np

    from . import numeric

    try:
        numeric.cast_exactly(np.asarray(number), numeric.dtype(variable.dtype), variable.name)
    except CkptSurgeonError as error:
        problems.append(error)
    return Change("filled", variable, Fill(number))


def assign(checkpoint: Checkpoint, name: str, values: NDArray[Any]) -> Plan:
    """Set all values of one variable.

    Args:
        checkpoint: open.
        name: of the variable.
        values: of its shape and dtype, in native byte order.

    Raises:
        NotFoundError: no such variable.
        RefusedError: another shape.
    """
    variable = checkpoint[name]
    if values.shape != variable.shape:
        raise RefusedError(
            f"{name} has another shape", path=checkpoint.path, expected=list(variable.shape), found=list(values.shape)
        )
    return Plan(checkpoint, [Change("set", variable, Values(values))])
