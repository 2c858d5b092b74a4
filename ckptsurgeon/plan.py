"""Plan: what an operation will do, variable by variable, decided before anything is written; and the Report of it.

A plan is data. `surgeon` makes it from metadata, `formats.save` carries it out, `--dry-run` prints it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint, Variable


class Copy:
    """The stored bytes of a donor's variable, copied without decoding them.

    Attributes:
        donor: the checkpoint, open.
        variable: the donor's variable.
    """

    __slots__ = ("donor", "variable")

    def __init__(self, donor: Checkpoint, variable: Variable) -> None:
        self.donor = donor
        self.variable = variable


class Values:
    """Values from memory.

    Attributes:
        values: array of the recipient variable's shape and dtype, in native byte order.
    """

    __slots__ = ("values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values


class Fill:
    """One number for all elements.

    Attributes:
        number: that fits the variable's dtype.
    """

    __slots__ = ("number",)

    def __init__(self, number: float) -> None:
        self.number = number


class Change:
    """What happens to one variable of the recipient.

    Attributes:
        action: `grafted`, `set`, `filled`, `dropped`, or `kept`.
        variable: the recipient's.
        content: its new bytes; None where it keeps them, or goes.
        source: name of the donor's variable, or None.
        reason: why, where it needs saying.
    """

    __slots__ = ("action", "content", "reason", "source", "variable")

    def __init__(
        self,
        action: str,
        variable: Variable,
        content: Copy | Values | Fill | None = None,
        source: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.action = action
        self.variable = variable
        self.content = content
        self.source = source
        self.reason = reason


class Plan:
    """What an operation will do to a checkpoint.

    Attributes:
        recipient: the checkpoint, open; all of it that no change names is carried byte for byte.
        changes: in natural order of names.
    """

    __slots__ = ("changes", "recipient")

    def __init__(self, recipient: Checkpoint, changes: list[Change]) -> None:
        self.recipient = recipient
        self.changes = changes

    @property
    def changes_nothing(self) -> bool:
        """Whether carrying it out would leave the recipient as it is."""
        return all(change.content is None and change.action != "dropped" for change in self.changes)


class Report:
    """What an operation did, or with `--dry-run` would do.

    Attributes:
        path: the checkpoint that holds the result.
        rows: one for each changed variable, then one for each kept one: dicts with the keys name, action, from,
            dtype, shape, bytes (written), cast_from, reason.
        warnings: what the user should know besides.
    """

    __slots__ = ("path", "rows", "warnings")

    def __init__(self, path: str, plan: Plan, linked: bool = False) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.rows: list[dict[str, object]] = []
        changed = set()
        for change in plan.changes:
            variable = change.variable
            changed.add(variable.name)
            written = 0
            if change.content is not None and not (linked and isinstance(change.content, Copy)):
                source = change.content.variable if isinstance(change.content, Copy) else variable
                written = sum(extent.length for extent in source.extents)
            self._add(variable, change.action, change.source, written, change.reason)
        for variable in plan.recipient.variables.values():
            if variable.name not in changed:
                self._add(variable, "kept", None, 0, None)

    def _add(self, variable: Variable, action: str, source: str | None, written: int, reason: str | None) -> None:
        self.rows.append(
            {
                "name": variable.name,
                "action": action,
                "from": source,
                "dtype": variable.dtype,
                "shape": list(variable.shape),
                "bytes": written,
                "cast_from": None,
                "reason": reason,
            }
        )

    @property
    def changed(self) -> list[dict[str, object]]:
        """The rows of all variables but the kept ones."""
        return [row for row in self.rows if row["action"] != "kept"]
