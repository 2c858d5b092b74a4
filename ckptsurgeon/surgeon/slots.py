"""What happens to the slots of variables that get new values (`--slots`), and the kinds of slots."""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, RefusedError, UsageError
from ..names import ATTRIBUTES, OBJECT_SLOT, natural_key, shown
from ..plan import Change, Fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ..checkpoint import Checkpoint, Variable


# Other names of an optimizer's variables, in one release or another, and the usual ones.
USUAL_NAMES = {"iter": "iteration", "iterations": "iteration", "m": "momentum", "v": "velocity"}


def slots_by_kind(checkpoint: Checkpoint, slots: Iterable[str], owner: str) -> dict[tuple[str, int], str]:
    """The slots of a variable, by kind (Adam_1, momentum, m) and by number among those of one kind, from 0.

    The kind is what the slot's name adds to its variable's; it is empty or a number where names do not tell it.

    Args:
        checkpoint: open.
        slots: names of the variable's slots.
        owner: the variable's name.
    """
    full_owner = checkpoint.full_name(owner) or owner
    found: dict[tuple[str, int], str] = {}
    for slot in slots:
        kind = checkpoint.full_name(slot) or ""
        if OBJECT_SLOT in slot or f"/{owner}/" in f"/{slot}":  # dense/kernel/Adam_1, training/dense/kernel/Adam_1
            kind = slot.partition(ATTRIBUTES)[0].rpartition("/")[2]
        elif slot.startswith(owner):  # dense/kernel_slot_v
            kind = slot[len(owner) :]
        elif kind.endswith(f"/{full_owner}"):  # Adam/m/dense/kernel
            kind = kind[: -len(full_owner) - 1].rpartition("/")[2]
        else:  # Adam/dense/kernel/m, adam/dense_kernel_velocity_hat
            kind = kind.rpartition("/")[2]
            flat = full_owner.replace("/", "_") + "_"
            kind = kind[len(flat) :] if kind.startswith(flat) else kind.rpartition("_")[2]
        kind = USUAL_NAMES.get(kind, kind)
        number = 0
        while (kind, number) in found:
            number += 1
        found[kind, number] = slot
    return found


class SlotPolicy:
    """What happens to the slots of variables that get new values.

    Args:
        text: `keep` (they stay as they are), `copy` (they get new values as their variables do), `drop`, or
            `fill=NUMBER`.

    Raises:
        UsageError: any other text.
    """

    def __init__(self, text: str) -> None:
        self.action, _, number = text.partition("=")
        self.number = 0.0
        try:
            self.number = float(number) if self.action == "fill" else 0.0
        except ValueError:
            self.action = ""
        if self.action not in ("keep", "copy", "drop", "fill") or (number and self.action != "fill"):
            raise UsageError(f"invalid --slots {text!r}", expected="keep, copy, drop or fill=NUMBER")

    def changes(self, checkpoint: Checkpoint, owners: Iterable[str], problems: list[CkptSurgeonError]) -> list[Change]:
        """The changes that `drop` and `fill` make; none for the other policies.

        Args:
            checkpoint: the one with the slots.
            owners: names of the variables.
            problems: gets an error for each slot that cannot hold the number.
        """
        if self.action not in ("drop", "fill"):
            return []
        by_variable = schemes.slots_by_variable(checkpoint)
        owners = list(owners)
        check_owners_known(checkpoint, owners, by_variable, problems)
        slots = [checkpoint[slot] for owner in owners for slot in by_variable.get(owner, [])]
        if self.action == "drop":
            return [Change("dropped", slot) for slot in slots]
        return [_filled(slot, self.number, problems) for slot in slots]


def check_owners_known(
    checkpoint: Checkpoint, owners: Iterable[str], slots: dict[str, list[str]], problems: list[CkptSurgeonError]
) -> None:
    """Check that the slots of these variables are known: names of numbered slots may not tell whose they are.

    Args:
        checkpoint: that has them.
        owners: names of variables.
        slots: of each variable that has some, its slots.
        problems: gets an error for each variable of which other variables may be slots.
    """
    assigned = {slot for each in slots.values() for slot in each}
    likely = schemes.candidates(checkpoint)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in [*sorted(schemes.optimizer_variables(checkpoint) - assigned, key=natural_key), *likely]:
        by_shape.setdefault(checkpoint[name].shape, []).append(name)
    by_shape.pop((), None)
    for owner in owners if by_shape else ():
        shape = checkpoint[owner].shape
        lesser = {shape[:at] + shape[at + 1 :] for at in range(len(shape))}  # of Adafactor
        found = [name for each in (shape, *sorted(lesser)) for name in by_shape.get(each, [])]
        found = [name for name in found if (likely[name] in (owner, "") if name in likely else owner not in slots)]
        if found:
            what = f"cannot tell which of the optimizer's variables are slots of {owner}"
            hint = "--slots keep leaves them unchanged"
            problems.append(RefusedError(what, path=checkpoint.path, found=shown(found), hint=hint))


def check_kinds_known(checkpoint: Checkpoint, slots: Iterable[str], problems: list[CkptSurgeonError]) -> None:
    """Check that it is known what these slots hold: numbered slots may be momentum or moving averages.

    Args:
        checkpoint: that has them.
        slots: names of slots.
        problems: gets an error for the slots of which it is not known.
    """
    vague = checkpoint.vague_slots()
    found = [slot for slot in slots if slot in vague]
    if found:
        what = "cannot tell what slots hold (momentum, moving averages, accumulated gradients, …)"
        hint = "--slots keep leaves them unchanged"
        problems.append(RefusedError(what, path=checkpoint.path, found=shown(found), hint=hint))


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
    """The selected variables that are not slots, or are named in `but`.

    Args:
        checkpoint: open.
        selected: of it.
        but: names of slots to keep in the selection.
        hint: what to do if all of them are slots.

    Raises:
        UsageError: all of them are slots.
    """
    slots = schemes.slots(checkpoint)
    chosen = [variable for variable in selected if variable.name not in slots or variable.name in but]
    if not chosen:
        raise UsageError("the selection matches only slots", path=checkpoint.path, hint=hint)
    return chosen
