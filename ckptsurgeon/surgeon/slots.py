"""What becomes of the slots of variables that get new values: the policy `--slots`; and kinds of slots."""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, RefusedError, UsageError
from ..names import ATTRIBUTES, OBJECT_SLOT
from ..plan import Change, Fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ..checkpoint import Checkpoint, Variable


# An optimizer's variables by the names of one release and another.
SAID = {"iter": "iteration", "iterations": "iteration", "m": "momentum", "v": "velocity"}


def by_kind(checkpoint: Checkpoint, slots: Iterable[str], owner: str) -> dict[str, list[str]]:
    """The slots of a variable by their kinds, as far as names tell them: Adam_1, momentum, m; else by nothing.

    Args:
        checkpoint: open.
        slots: names of the variable's.
        owner: the variable's name.
    """
    full_owner = checkpoint.full_name(owner) or owner
    found: dict[str, list[str]] = {}
    for slot in slots:
        kind = checkpoint.full_name(slot) or ""
        if OBJECT_SLOT in slot or slot.startswith(f"{owner}/"):  # dense/kernel/Adam_1
            kind = slot.partition(ATTRIBUTES)[0].rpartition("/")[2]
        elif kind.endswith(f"/{full_owner}"):  # Adam/m/dense/kernel
            kind = kind[: -len(full_owner) - 1].rpartition("/")[2]
        else:  # Adam/dense/kernel/m, adam/dense_kernel_momentum
            kind = kind.rpartition("/")[2].rpartition("_")[2]
        found.setdefault(SAID.get(kind, kind), []).append(slot)
    return found


class SlotPolicy:
    """What becomes of the slots.

    Args:
        text: `keep` (they stay as they are), `copy` (they get new values as their variables do), `drop`, or
            `fill=NUMBER`.

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

    def changes(self, checkpoint: Checkpoint, owners: Iterable[str], problems: list[CkptSurgeonError]) -> list[Change]:
        """What `drop` and `fill` do; nothing for the others.

        Args:
            checkpoint: that has the slots.
            owners: names of their variables.
            problems: gets those of slots that the number does not fit.
        """
        if self.action not in ("drop", "fill"):
            return []
        by_variable = schemes.slots_by_variable(checkpoint)
        owners = list(owners)
        check_told(checkpoint, owners, by_variable, problems)
        slots = [checkpoint[slot] for owner in owners for slot in by_variable.get(owner, [])]
        if self.action == "drop":
            return [Change("dropped", slot) for slot in slots]
        return [_filled(slot, self.number, problems) for slot in slots]


def check_told(
    checkpoint: Checkpoint, owners: Iterable[str], slots: dict[str, list[str]], problems: list[CkptSurgeonError]
) -> None:
    """Whether all slots are told that a policy is about: of numbered ones nothing may tell whose they are.

    Args:
        checkpoint: that has them.
        owners: names of variables.
        slots: of each variable that has some, its slots.
        problems: gets those variables of whose shape an optimizer has variables that are nobody's.
    """
    told = {slot for each in slots.values() for slot in each}
    own = schemes.optimizer_variables(checkpoint) - told
    shapes = {checkpoint[name].shape for name in own} - {()}
    for owner in owners:
        if owner not in slots and checkpoint[owner].shape in shapes:
            what = f"nothing tells which of the optimizer's variables are slots of {owner}"
            problems.append(RefusedError(what, path=checkpoint.path, hint="--slots keep leaves them as they are"))


def _filled(slot: Variable, number: float, problems: list[CkptSurgeonError]) -> Change:
    import numpy as np

    from .. import numeric

    try:
        numeric.cast_exactly(np.asarray(number), numeric.dtype(slot.dtype), slot.name)
    except CkptSurgeonError as error:
        problems.append(error)
    return Change("filled", slot, Fill(number))


def without_slots(
    checkpoint: Checkpoint,
    selected: list[Variable],
    but: Container[str] = (),
    hint: str = "select their variables, and --slots copy",
) -> list[Variable]:
    """The selected variables that are nobody's slot, or are named in `but`.

    Args:
        checkpoint: open.
        selected: of it.
        but: names of slots that are chosen all the same.
        hint: what to do where there are slots only.

    Raises:
        UsageError: there is none.
    """
    slots = schemes.slots(checkpoint)
    chosen = [variable for variable in selected if variable.name not in slots or variable.name in but]
    if not chosen:
        raise UsageError("the selection matches slots only", path=checkpoint.path, hint=hint)
    return chosen
