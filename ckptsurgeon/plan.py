"""Plan: what an operation will do to each variable, decided before anything is written; and the Report about it.

A plan is data. `surgeon` makes it from metadata, `formats.save` carries it out, and `--dry-run` prints it.
"""

from __future__ import annotations

from .checkpoint import ITEM_SIZE
from .names import natural_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint, Variable
    from .plain import Numbers


class Copy:
    """The stored bytes of a donor's variable, copied without decoding them.

    Attributes:
        donor: the donor, open.
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

    __slots__ = ("_values",)

    def __init__(self, values: NDArray[Any]) -> None:
        self._values: NDArray[Any] | None = values

    @property
    def values(self) -> NDArray[Any]:
        """The array."""
        assert self._values is not None
        return self._values


class Packed(Values):
    """Numbers from memory, of which an array is made only if a format needs one.

    Attributes:
        numbers: of the recipient variable's shape and dtype.
    """

    __slots__ = ("numbers",)

    def __init__(self, numbers: Numbers) -> None:
        self._values = None
        self.numbers = numbers

    @property
    def values(self) -> NDArray[Any]:
        """The array, made when it is first asked for."""
        import numpy as np

        if self._values is None:
            self._values = np.frombuffer(self.numbers.data, self.numbers.dtype).reshape(self.numbers.shape)
        return self._values


class Fill:
    """One number for all elements.

    Attributes:
        number: the number, which fits the variable's dtype.
    """

    __slots__ = ("number",)

    def __init__(self, number: float) -> None:
        self.number = number


class Text:
    """The bytes of a scalar string.

    Attributes:
        value: the bytes.
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value


class Elements:
    """Values that are computed in portions while they are written.

    Attributes:
        make: each call yields all elements in C order, as one-dimensional arrays of the variable's dtype, in native
            byte order.
        cast_from: the elements' dtype before a cast; None if there is no cast.
    """

    __slots__ = ("cast_from", "make")

    def __init__(self, make: Callable[[], Iterator[NDArray[Any]]], cast_from: str | None = None) -> None:
        self.make = make
        self.cast_from = cast_from


if TYPE_CHECKING:
    Content = Copy | Values | Elements | Fill | Text


class Change:
    """What happens to one variable of the recipient.

    Attributes:
        action: `grafted`, `added`, `set`, `filled`, `cast`, `averaged`, `updated` (follows from other changes),
            `unpartitioned`, `transposed`, `renamed`, `dropped`, `extracted`, `copied`, `skipped` or `kept`.
        variable: the recipient's; for an added, cast or unpartitioned variable the future one, without extents yet.
        content: its new bytes; None if it keeps its bytes or is dropped.
        source: name of the donor's variable, or the old name of a renamed one, or None.
        reason: the reason, if it is not obvious.
        key: the key under which it is stored afterwards; the variable's own unless it is renamed.
        name: its name afterwards.
        cast_from: the donor's dtype, if it differs from that of the values already there.
    """

    __slots__ = ("action", "cast_from", "content", "key", "name", "reason", "source", "variable")

    def __init__(
        self,
        action: str,
        variable: Variable,
        content: Content | None = None,
        source: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.action = action
        self.variable = variable
        self.content = content
        self.source = source
        self.reason = reason
        self.key = variable.key
        self.name = variable.name
        self.cast_from: str | None = None

    @property
    def donor(self) -> Checkpoint | None:
        """The checkpoint from which the new bytes are copied; None if they are not copied."""
        return self.content.donor if isinstance(self.content, Copy) else None


class Result:
    """One variable of an operation's result.

    Attributes:
        key: the key under which it is stored.
        variable: its dtype, shape and slices; if it is kept, also the place of its bytes.
        content: its bytes; a `Copy` from the recipient itself means that they stay.
        kept: whether the bytes stay.
    """

    __slots__ = ("content", "kept", "key", "variable")

    def __init__(self, key: bytes, variable: Variable, content: Content, kept: bool) -> None:
        self.key = key
        self.variable = variable
        self.content = content
        self.kept = kept


class Plan:
    """What an operation will do to a checkpoint.

    Attributes:
        recipient: the checkpoint, open; everything that no change names is kept byte for byte.
        changes: in natural order of names.
        warnings: messages for the user about what the plan does.
    """

    __slots__ = ("changes", "recipient", "warnings")

    def __init__(self, recipient: Checkpoint, changes: list[Change]) -> None:
        self.recipient = recipient
        self.changes = changes
        self.warnings: list[str] = []

    @property
    def changes_nothing(self) -> bool:
        """Whether the plan would leave the recipient as it is."""
        return all(change.content is None and change.action not in ("dropped", "renamed") for change in self.changes)

    def results(self) -> list[Result]:
        """Return all variables of the result: the recipient's in its own order, followed by the added ones."""
        changes = {change.variable.name: change for change in self.changes if change.action != "added"}
        found = []
        for name, variable in self.recipient.variables.items():
            change = changes.get(name)
            if change is None or change.action != "dropped":
                content = change.content if change else None
                kept = content is None
                key = change.key if change else variable.key
                form = change.variable if change else variable
                found.append(Result(key, form, content or Copy(self.recipient, variable), kept))
        for change in self.changes:
            if change.action == "added" and change.content:
                found.append(Result(change.key, change.variable, change.content, False))
        return found

    def size(self, whole: bool) -> int:
        """Return how many bytes of values the plan writes, as far as metadata show: strings may take more.

        Args:
            whole: whether to include unchanged variables.
        """
        total = 0
        for result in self.results():
            if whole or not result.kept:
                item, content = ITEM_SIZE.get(result.variable.dtype), result.content
                if item:
                    total += result.variable.size * item
                elif isinstance(content, Copy):
                    total += sum(extent.length for extent in content.variable.extents)
        return total


def plan_of(checkpoint: Checkpoint, changes: list[Change]) -> Plan:
    """Return the plan of these changes and their consequences within the container.

    Raises:
        RefusedError: the container cannot be kept consistent.
    """
    updated = checkpoint.consequences(changes)
    changes += [Change("updated", checkpoint.variables[name], Text(value)) for name, value in updated.items()]
    changes.sort(key=lambda change: natural_key(change.name))
    return Plan(checkpoint, changes)


class Report:
    """What an operation did, or with `--dry-run` would do.

    Attributes:
        path: the checkpoint that holds the result.
        rows: one for each changed variable, then one for each kept one: dicts with the keys name, action, from,
            dtype, shape, bytes (written), cast_from, reason.
        reclaimed: bytes freed by `compact`; 0 for every other operation.
        warnings: further messages for the user.
    """

    __slots__ = ("path", "reclaimed", "rows", "warnings")

    def __init__(self, path: str, plan: Plan, linked: bool = False) -> None:
        self.path = path
        self.reclaimed = 0
        self.warnings = list(plan.warnings)
        self.rows: list[dict[str, object]] = []
        changed = set()
        for change in plan.changes:
            changed.add(change.variable.name)
            self._add(change, 0 if linked and isinstance(change.content, Copy) else _size(change))
        for variable in plan.recipient.variables.values():
            if variable.name not in changed:
                self._add(Change("kept", variable), 0)

    def _add(self, change: Change, written: int) -> None:
        self.rows.append(
            {
                "name": change.name,
                "action": change.action,
                "from": change.source,
                "dtype": change.variable.dtype,
                "shape": list(change.variable.shape),
                "bytes": written,
                "cast_from": change.content.cast_from if isinstance(change.content, Elements) else change.cast_from,
                "reason": change.reason,
            }
        )

    @property
    def changed(self) -> list[dict[str, object]]:
        """The rows of all variables except the kept ones."""
        return [row for row in self.rows if row["action"] != "kept"]


def _size(change: Change) -> int:
    """Return the number of bytes of a change's values."""
    content, variable = change.content, change.variable
    if content is None:
        return 0 if change.action not in ("extracted", "copied") else variable.size * ITEM_SIZE.get(variable.dtype, 0)
    if isinstance(content, Text):
        return len(content.value)
    if isinstance(content, Copy):
        return content.donor.nbytes(content.variable) or 0
    if isinstance(content, Values) and variable.dtype == "string":
        return sum(map(len, content.values.ravel().tolist()))
    return variable.size * ITEM_SIZE.get(variable.dtype, 0)
