"""Matches names with patterns by a regular expression, for patterns that take it linear time."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TRANSLATED = {
    "{K}": r"([0-9]{1,18})",
    "{_K}": r"((?:_[1-9][0-9]{0,17})?)",
    "**": r"(.*)",
    "*": r"([^/]*)",
    "?": r"([^/])",
}


class Expression:
    """Matches whole names as an `Automaton` of the same wildcards and texts does, faster once it is compiled.

    Args:
        tokens: the wildcards of a pattern.
        literals: the texts around them, one more than there are wildcards.
    """

    def __init__(self, tokens: Sequence[str], literals: Sequence[str]) -> None:
        parts = zip(map(_TRANSLATED.__getitem__, tokens), map(re.escape, literals[1:]), strict=True)
        self._expression = re.compile(re.escape(literals[0]) + "".join(map("".join, parts)), re.DOTALL)

    def matches(self, name: str) -> bool:
        """Whether a whole name matches."""
        return self._expression.fullmatch(name) is not None

    def spans(self, name: str) -> Sequence[tuple[int, int]] | None:
        """Where in a name the text of each wildcard begins and ends, or None if the name does not match."""
        match = self._expression.fullmatch(name)
        return None if match is None else match.regs[1:]
