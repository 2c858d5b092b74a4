"""What becomes of the slots of variables that get new values: the policy `--slots`."""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, UsageError
from ..plan import Change, Fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from ..checkpoint import Checkpoint, Variable


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
        slots = [checkpoint[slot] for owner in owners for slot in by_variable.get(owner, [])]
        if self.action == "drop":
            return [Change("dropped", slot) for slot in slots]
        return [_filled(slot, self.number, problems) for slot in slots]


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
