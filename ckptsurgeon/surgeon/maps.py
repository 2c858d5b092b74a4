"""Parses `A=B`: renames, and maps from a donor's variables onto a recipient's."""

from __future__ import annotations

from .. import schemes
from ..errors import RefusedError, UsageError
from ..names import Pattern, parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re

    from ..checkpoint import Checkpoint, Variable


# Characters of a name that a user's regular expression is tried on. Even an ordinary one, such as `.*a.*b`, may take
# the square of a name's length or more, and a file may hold a name of megabytes. Real names have some hundred at most.
_LONGEST_FOR_REGEX = 1000


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
            import re

            try:
                self._regex = re.compile(self.old)
                re.sub(self._regex, self.new, "")
            except (re.error, IndexError) as error:
                raise UsageError(f"invalid regular expression in {text!r}: {error}") from None

    def apply(self, checkpoint: Checkpoint) -> dict[str, str]:
        """The new names of the variables that match.

        Raises:
            UsageError: the old and the new name have different numbers of wildcards.
            RefusedError: a name is too long for a regular expression.
        """
        names = checkpoint.variables
        if self._regex is not None:
            longest = max(names, key=len, default="")
            if len(longest) > _LONGEST_FOR_REGEX:
                raise RefusedError(
                    f"{longest[:40]}…: this name is too long for --regex",
                    path=checkpoint.path,
                    expected=f"at most {_LONGEST_FOR_REGEX} characters",
                    found=len(longest),
                    hint="use a glob",
                )
            return {name: self._regex.sub(self.new, name) for name in names if self._regex.search(name)}
        exact = checkpoint.named(self.old)
        if exact is not None:
            return {exact.name: self.new}
        rest = "**" if self.old.endswith("/") else ""  # a prefix, perhaps with wildcards too
        pattern = Pattern(self.old + rest)
        new, (first, *literals) = parsed(self.new + rest)
        if len(pattern.tokens) != len(new):
            raise UsageError(f"'{self.old}={self.new}': the two names have different numbers of wildcards")
        renamed = {}
        for name in names:
            spans = pattern.spans(name)
            if spans is not None:
                texts = map(_filled, pattern.tokens, new, (name[begin:end] for begin, end in spans))
                renamed[name] = first + "".join(map("".join, zip(texts, literals, strict=True)))
        return renamed


def _parted(text: str) -> tuple[str, str, str]:
    """Split A=B at the first `=` that is not part of `(?=`, `(?<=` or `(?P=`, or else at the first `=`."""
    import re

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
