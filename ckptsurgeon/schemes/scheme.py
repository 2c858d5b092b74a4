"""Scheme: which variables form layer K, by a pattern of their names or by the container's own numbering."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..errors import UsageError
from ..names import Pattern
from .known import KNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint, Variable


class Scheme(ABC):
    """How layers are named.

    Attributes:
        name: of a row of the table or of a container's own numbering, or the pattern itself.
    """

    name: str

    @abstractmethod
    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs, or None."""

    def layers(self, checkpoint: Checkpoint) -> dict[int, list[Variable]]:
        """The variables of each layer, slots included, by rising number."""
        found: dict[int, list[Variable]] = {}
        for name, variable in checkpoint.variables.items():
            number = self.number(name)
            if number is not None:
                found.setdefault(number, []).append(variable)
        return dict(sorted(found.items()))


class PatternScheme(Scheme):
    """Layers by a pattern of their variables' names.

    Args:
        name: of a row of the table, or the user's pattern itself.
        pattern: of the variables of layer {K}.
        option: by which the user gave it, for messages.

    Raises:
        UsageError: the pattern has not exactly one {K} or {_K}.
    """

    def __init__(self, name: str, pattern: str, option: str = "--scheme") -> None:
        if pattern.count("{K}") + pattern.count("{_K}") != 1:
            raise UsageError(
                f"{option} {pattern}: no such scheme, and as a pattern it needs {{K}} once",
                expected=f"{', '.join(known for known, _ in KNOWN)}, or a pattern like 'tower/{{K}}/**'",
            )
        self.name = name
        self.pattern = pattern
        self._names = Pattern(pattern)
        self._wildcard = [token[-1] == "}" for token in self._names.tokens].index(True)  # the number's

    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs, or None."""
        span = self.span(name)
        return None if span is None else int(name[slice(*span)].lstrip("_") or 0)

    def span(self, name: str) -> tuple[int, int] | None:
        """Where in a variable's name the number of its layer begins and ends, or None if it belongs to no layer."""
        spans = self._names.spans(name)
        return None if spans is None else spans[self._wildcard]


class TableScheme(Scheme):
    """Layers recorded by the container.

    Args:
        name: of the numbering.
        table: variable's name -> number of its layer.
        owners: slot's name -> its variable's; a slot belongs to its variable's layer.
    """

    def __init__(self, name: str, table: dict[str, int], owners: dict[str, str]) -> None:
        self.name = name
        self._numbers = {slot: table[owner] for slot, owner in owners.items() if owner in table} | table

    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs, or None."""
        return self._numbers.get(name)
