"""Names of variables: the patterns that match them, and their natural order."""

from __future__ import annotations

from .lean import remembered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import Protocol, TypeVar

    from .automaton import Automaton
    from .expression import Expression

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
WILDCARDS = ("{K}", "{_K}", "**", "*", "?")
_FEW = 1000  # names that an automaton matches in the time that it takes to import re and compile an expression
_MOST_SHOWN = 3  # names that a message lists

DIGITS = "0123456789"
LONGEST_NUMBER = 18  # digits that count as one number, which Python converts quickly; a name may hold millions


def parsed(pattern: str) -> tuple[list[str], list[str]]:
    """The wildcards of a pattern, and the texts around them, one more than there are wildcards."""
    tokens: list[str] = []
    literals = [""]
    at = 0
    while at < len(pattern):
        token = next((each for each in WILDCARDS if pattern.startswith(each, at)), None)
        if token is None:
            literals[-1] += pattern[at]
            at += 1
        else:
            tokens.append(token)
            literals.append("")
            at += len(token)
    return tokens, literals


def beginning(pattern: str) -> str:
    """What all names begin with that match a pattern."""
    for wildcard in WILDCARDS:
        pattern = pattern.partition(wildcard)[0]
    return pattern


class Pattern:
    """A pattern of whole names, in which each wildcard takes as much as it can, the first one first.

    Names come from files, and a long one can keep a regular expression with several wildcards busy for minutes.
    So an expression, which is fastest, is used only where it takes linear time: at most one wildcard may have to be
    tried with less text. A `**` at the end always takes the rest. The first names are matched by an automaton anyway.

    Args:
        text: the pattern.

    Attributes:
        tokens: its wildcards.
    """

    def __init__(self, text: str) -> None:
        from .automaton import Automaton

        self.tokens, literals = parsed(text)
        takes_the_rest = not literals[-1] and self.tokens[-1:] == ["**"]
        tried = [token[0] for token in (self.tokens[:-1] if takes_the_rest else self.tokens)]
        self._is_fast_expression = tried.count("*") <= 1 and tried.count("{") <= 1
        self._literals = literals
        self._automaton = Automaton(self.tokens, literals)
        self._expression: Expression | None = None
        self._names = 0

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        return (self._expression or self._matcher()).matches(name)

    def spans(self, name: str) -> Sequence[tuple[int, int]] | None:
        """Where in a name the text of each wildcard begins and ends, or None if the name does not match."""
        return (self._expression or self._matcher()).spans(name)

    def _matcher(self) -> Automaton | Expression:
        self._names += 1
        if self._names == _FEW and self._is_fast_expression:
            from .expression import Expression

            self._expression = Expression(self.tokens, self._literals)
        return self._expression or self._automaton


def is_number(text: str) -> bool:
    """Whether a text is a number, of as many digits as names of layers may have."""
    return text.isdecimal() and text.isascii() and len(text) <= LONGEST_NUMBER


def last_number(text: str) -> str:
    """The number at the end of a text, or nothing."""
    return text[len(text.rstrip(DIGITS)) :][-LONGEST_NUMBER:]


def is_numbered(text: str, names: Collection[str]) -> bool:
    """Whether a text is one of these names, or one that TensorFlow has numbered: Adam, Adam_1."""
    stem = text.rstrip(DIGITS)
    return text in names or (stem != text and stem.endswith("_") and stem[:-1] in names)


def shown(names: list[str]) -> str:
    """Return names as a message lists them: the first few, and how many more there are."""
    more = [f"{len(names) - _MOST_SHOWN} more"] if len(names) > _MOST_SHOWN + 1 else names[_MOST_SHOWN:]
    return ", ".join(names[:_MOST_SHOWN] + more)


def natural_key(name: str) -> list[list[str | int]]:
    """Return a sort key that puts layer2 before layer10."""
    return list(map(_component_key, name.replace("/", "/\0").split("\0")))


def _key(component: str) -> list[str | int]:
    numbers = "".join([char if char in DIGITS else " " for char in component]).split()
    key: list[str | int] = []
    at = 0
    for digits in numbers:
        for start in range(0, len(digits), LONGEST_NUMBER):
            number = digits[start : start + LONGEST_NUMBER]
            begin = component.index(number, at)
            key += (component[at:begin], int(number))
            at = begin + len(number)
    return [*key, component[at:]]


_component_key = remembered(_key, 1 << 12)  # most components occur in many names


def natural_order(variables: Iterable[AnyNamed]) -> list[AnyNamed]:
    """Return variables sorted by name, layer2 before layer10."""
    return sorted(variables, key=lambda variable: natural_key(variable.name))
