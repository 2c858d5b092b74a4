"""Names of variables: the patterns that match them, and their natural order."""

from __future__ import annotations

import re
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol, TypeVar

    class Named(Protocol):
        """Anything with a name, such as a variable."""

        name: str

    AnyNamed = TypeVar("AnyNamed", bound=Named)

# Marks in the keys of an object-based checkpoint (TensorFlow 2, Keras):
#     <path of the variable>/.ATTRIBUTES/VARIABLE_VALUE
#     <path of the variable>/.OPTIMIZER_SLOT/<path of the optimizer>/<slot>/.ATTRIBUTES/VARIABLE_VALUE
ATTRIBUTES = "/.ATTRIBUTES/"
VALUE_SUFFIX = ATTRIBUTES + "VARIABLE_VALUE"  # of every variable's key; `ls` leaves it out
OBJECT_SLOT = "/.OPTIMIZER_SLOT/"

# The wildcards of a pattern: `*` stays within a path component, `**` crosses `/`, `?` is one character, {K} a layer's
# number, {_K} nothing for layer 0 and then _1, _2, ….
TOKENS = re.compile(r"\{K\}|\{_K\}|\*\*|\*|\?")
_TRANSLATED = {
    "{K}": r"([0-9]{1,18})",
    "{_K}": r"((?:_[1-9][0-9]{0,17})?)",
    "**": r"(.*)",
    "*": r"([^/]*)",
    "?": r"([^/])",
}
# In groups that Python turns into numbers in no time; a name may hold millions of digits.
DIGITS = re.compile(r"([0-9]{1,18})")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of names as a regular expression for the whole name: each wildcard a group, all else literal."""
    parts, at = [], 0
    for token in TOKENS.finditer(pattern):
        parts += [re.escape(pattern[at : token.start()]), _TRANSLATED[token[0]]]
        at = token.end()
    return re.compile("".join(parts) + re.escape(pattern[at:]), re.DOTALL)


def natural_key(name: str) -> list[list[str | int]]:
    """A sort key under which layer2 comes before layer10."""
    return list(map(_component_key, name.replace("/", "/\0").split("\0")))


@lru_cache(1 << 12)  # names have most of their components in common
def _component_key(component: str) -> list[str | int]:
    return [int(part) if at % 2 else part for at, part in enumerate(DIGITS.split(component))]


def natural_order(variables: Iterable[AnyNamed]) -> list[AnyNamed]:
    """Variables sorted by name, layer2 before layer10."""
    return sorted(variables, key=lambda variable: natural_key(variable.name))
