"""Parses `A=B`: renames, and maps from a donor's variables onto a recipient's."""

from __future__ import annotations

import re

from .. import schemes
from ..errors import RefusedError, UsageError
from ..names import TOKENS, compile_pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint, Variable


class Rename:
    r"""One rename that a user asked for.

    Args:
        text: `A=B`, where A is a name, a prefix that ends in `/`, or a glob whose wildcards fill those of B in order.
        regex: A is a regular expression, B its replacement with `\1` or `\g<name>`.

    Raises:
        UsageError: there is no `=`, or the regular expression is invalid.
    """

    def __init__(self, text: str, regex: bool = False) -> None:
        self.old, equals, self.new = _parted(text) if regex else text.partition("=")
        if not equals or not self.old:
            raise UsageError(f"invalid rename {text!r}", expected="A=B")
        self._regex: re.Pattern[str] | None = None
        if regex:
            try:
                self._regex = re.compile(self.old)
                re.sub(self._regex, self.new, "")
            except (re.error, IndexError) as error:
                raise UsageError(f"invalid regular expression in {text!r}: {error}") from None

    def apply(self, checkpoint: Checkpoint) -> dict[str, str]:
        """The new names of the variables that match.

        Raises:
            UsageError: the old and the new name have different numbers of wildcards.
        """
        names = checkpoint.variables
        if self._regex is not None:
            return {name: self._regex.sub(self.new, name) for name in names if self._regex.search(name)}
        exact = checkpoint.named(self.old)
        if exact is not None:
            return {exact.name: self.new}
        rest = "**" if self.old.endswith("/") else ""  # a prefix, perhaps with wildcards too
        old, new = TOKENS.findall(self.old + rest), TOKENS.findall(self.new + rest)
        if len(old) != len(new):
            raise UsageError(f"'{self.old}={self.new}': the two names have different numbers of wildcards")
        matches = map(compile_pattern(self.old + rest).fullmatch, names)
        first, *literals = TOKENS.split(self.new + rest)
        return {
            match[0]: first + "".join(map("".join, zip(map(_filled, old, new, match.groups()), literals, strict=True)))
            for match in matches
            if match is not None
        }


def _parted(text: str) -> tuple[str, str, str]:
    """Split A=B at the first `=` that is not part of `(?=`, `(?<=` or `(?P=`, or else at the first `=`."""
    found = re.search(r"(?<!\(\?)(?<!\(\?<)(?<!\(\?P)=", text)
    return (text[: found.start()], "=", text[found.end() :]) if found else text.partition("=")


class Map(Rename):
    """Which variable of a donor goes onto which of a recipient.

    Args:
        text: `A=B` as `Rename` takes it; `B.T`: the matrix is transposed.

    Attributes:
        transposes: whether the matrix is transposed.

    Raises:
        UsageError: the text is not `A=B`.
    """

    def __init__(self, text: str) -> None:
        self.transposes = text.endswith(".T")
        super().__init__(text.removesuffix(".T"))

    def __str__(self) -> str:
        return f"{self.old}={self.new}{'.T' if self.transposes else ''}"


def layout_problem(variable: Variable, name: str, path: str, otherwise: str) -> RefusedError | None:
    """An error if one name is a kernel's and the other one's layout is [out, in], even if the shapes agree.

    Args:
        variable: the source of the values.
        name: the name that they would get.
        path: the checkpoint that would hold that name.
        otherwise: what to do if transposing does not help.
    """
    dotted = variable.name.endswith(".weight")  # as PyTorch calls them
    kernel = name if dotted else variable.name
    if len(variable.shape) < 2 or dotted == name.endswith(".weight") or schemes.role(kernel) != "kernel":
        return None
    return RefusedError(
        f"{variable.name} and {name} are laid out differently: a dotted .weight is [out, in]",
        path=path,
        hint=f"--map {variable.name}={name}.T transposes it" if len(variable.shape) == 2 else otherwise,
    )


def _filled(old: str, new: str, text: str) -> str:
    """The text of one wildcard as another one spells it; `{K}` and `{_K}` spell a number differently."""
    if new == "{_K}":
        number = text.removeprefix("_")
        return f"_{number}" if number.strip("0") else ""
    return text.removeprefix("_") or "0" if (old, new) == ("{_K}", "{K}") else text
