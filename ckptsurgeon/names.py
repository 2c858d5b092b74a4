"""Names of variables: the patterns that match them, and their natural order."""

from __future__ import annotations

import re
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Protocol, TypeVar

    from .automaton import Automaton

    class Named(Protocol):
        """Anything with a name, such as a variable."""

        name: str

    AnyNamed = TypeVar("AnyNamed", bound=Named)

# Markers in the keys of an object-based checkpoint (TensorFlow 2, Keras):
#     <path of the variable>/.ATTRIBUTES/VARIABLE_VALUE
#     <path of the variable>/.OPTIMIZER_SLOT/<path of the optimizer>/<slot>/.ATTRIBUTES/VARIABLE_VALUE
ATTRIBUTES = "/.ATTRIBUTES/"
VALUE_SUFFIX = ATTRIBUTES + "VARIABLE_VALUE"  # ends every variable's key; `ls` omits it
OBJECT_SLOT = "/.OPTIMIZER_SLOT/"

# The wildcards of a pattern: `*` stays within a path component, `**` crosses `/`, `?` is one character, {K} is a layer
# number, {_K} is empty for layer 0 and _1, _2, … for the others.
TOKENS = re.compile(r"\{K\}|\{_K\}|\*\*|\*|\?")
_TRANSLATED = {
    "{K}": r"([0-9]{1,18})",
    "{_K}": r"((?:_[1-9][0-9]{0,17})?)",
    "**": r"(.*)",
    "*": r"([^/]*)",
    "?": r"([^/])",
}
_MOST_SHOWN = 3  # names that a message lists

# Groups are short so that Python converts them to integers quickly; a name may hold millions of digits.
DIGITS = re.compile(r"([0-9]{1,18})")


class Pattern:
    """A pattern of whole names, in which each wildcard takes as much as it can, the first one first.

    Names come from files, and a long one can keep a regular expression with several wildcards busy for minutes.
    So a pattern is compiled to one, which is fastest, only where that takes linear time: at most one wildcard may have
    to be tried with less text. A `**` at the end always takes the rest.

    Args:
        text: the pattern.

    Attributes:
        tokens: its wildcards.
    """

    def __init__(self, text: str) -> None:
        self.tokens = TOKENS.findall(text)
        literals = TOKENS.split(text)
        takes_the_rest = not literals[-1] and self.tokens[-1:] == ["**"]
        tried = [token[0] for token in (self.tokens[:-1] if takes_the_rest else self.tokens)]
        self._automaton: Automaton | None = None
        if tried.count("*") > 1 or tried.count("{") > 1:
            from .automaton import Automaton

            self._automaton = Automaton(self.tokens, literals)
        else:
            parts = zip(map(_TRANSLATED.__getitem__, self.tokens), map(re.escape, literals[1:]), strict=True)
            self._expression = re.compile(re.escape(literals[0]) + "".join(map("".join, parts)), re.DOTALL)

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        if self._automaton is not None:
            return self._automaton.matches(name)
        return self._expression.fullmatch(name) is not None

    def spans(self, name: str) -> Sequence[tuple[int, int]] | None:
        """Where in a name the text of each wildcard begins and ends, or None if the name does not match."""
        if self._automaton is not None:
            return self._automaton.spans(name)
        match = self._expression.fullmatch(name)
        return None if match is None else match.regs[1:]


def shown(names: list[str]) -> str:
    """Return names as a message lists them: the first few, and how many more there are."""
    more = [f"{len(names) - _MOST_SHOWN} more"] if len(names) > _MOST_SHOWN + 1 else names[_MOST_SHOWN:]
    return ", ".join(names[:_MOST_SHOWN] + more)


def natural_key(name: str) -> list[list[str | int]]:
    """Return a sort key that puts layer2 before layer10."""
    return list(map(_component_key, name.replace("/", "/\0").split("\0")))


@lru_cache(1 << 12)  # most components occur in many names
def _component_key(component: str) -> list[str | int]:
    return [int(part) if at % 2 else part for at, part in enumerate(DIGITS.split(component))]


def natural_order(variables: Iterable[AnyNamed]) -> list[AnyNamed]:
    """Return variables sorted by name, layer2 before layer10."""
    return sorted(variables, key=lambda variable: natural_key(variable.name))
