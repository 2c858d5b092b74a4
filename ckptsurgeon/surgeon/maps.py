"""What a user calls things anew: `A=B` as a rename, and as a map from a donor's variables onto a recipient's."""

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
        UsageError: no `=`, or no regular expression.
    """

    def __init__(self, text: str, regex: bool = False) -> None:
        self.old, equals, self.new = _parted(text) if regex else text.partition("=")
        if not equals or not self.old:
            raise UsageError(f"{text!r} is no rename", expected="A=B")
        self._regex: re.Pattern[str] | None = None
        if regex:
            try:
                self._regex = re.compile(self.old)
                re.sub(self._regex, self.new, "")
            except (re.error, IndexError) as error:
                raise UsageError(f"{text!r} is no rename by a regular expression: {error}") from None

    def apply(self, checkpoint: Checkpoint) -> dict[str, str]:
        """The new names of the variables that it matches.

        Raises:
            UsageError: the wildcards of the new name are not as many as those of the old.
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
    """A=B as `str.partition` parts it, but at a = that is no part of A's `(?=`, `(?<=` or `(?P=`, if there is one."""
    found = re.search(r"(?<!\(\?)(?<!\(\?<)(?<!\(\?P)=", text)
    return (text[: found.start()], "=", text[found.end() :]) if found else text.partition("=")


class Map(Rename):
    """Which variable of a donor goes onto which of a recipient.

    Args:
        text: `A=B` as `Rename` takes it; `B.T`: the matrix is transposed.

    Attributes:
        transposes: whether it is.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, text: str) -> None:
        self.transposes = text.endswith(".T")
        super().__init__(text.removesuffix(".T"))

    def __str__(self) -> str:
        return f"{self.old}={self.new}{'.T' if self.transposes else ''}"


def layout_problem(variable: Variable, name: str, path: str, otherwise: str) -> RefusedError | None:
    """The problem that of two names one is a kernel's and the other's layout is [out, in], whatever the shapes.

    Args:
        variable: whose values are meant.
        name: that they would get.
        path: of the checkpoint that would have it.
        otherwise: what to do where no transposition helps.
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
    """What a wildcard's text becomes in the place of another one; `{K}` and `{_K}` spell a number differently."""
    if new == "{_K}":
        number = text.removeprefix("_")
        return f"_{number}" if number.strip("0") else ""
    return text.removeprefix("_") or "0" if (old, new) == ("{_K}", "{K}") else text
