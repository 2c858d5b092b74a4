"""Names of one checkpoint and of another: onto which variable a graft writes which, and what a rename makes of one."""

from __future__ import annotations

import re

from . import schemes
from .errors import CkptSurgeonError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .checkpoint import Checkpoint, Variable
    from .selection import Selection

_WILDCARD = re.compile(r"\*\*|\*|\?|\{K\}")
_MATCHES = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{K}": r"\d+"}


class Pairs:
    """Which variable of the recipient answers to which of the donor.

    The one of the same name; where there is none and layers were asked for, the one in the layer of the same number
    whose rest of the name is the same, else the only one there of the same role (kernel, bias).

    Args:
        donor: open.
        recipient: open.
        selection: with its layers and the donor's scheme.
        recipient_scheme: how the recipient names its layers; None: found from its names.
    """

    def __init__(
        self, donor: Checkpoint, recipient: Checkpoint, selection: Selection, recipient_scheme: str | None = None
    ) -> None:
        self._donor = donor
        self._recipient = recipient
        self._selection = selection
        self._recipient_scheme = recipient_scheme
        self._layers: tuple[schemes.Scheme, schemes.Scheme] | None = None
        self._looked = False

    def target(self, variable: Variable) -> Variable | None:
        """The recipient's variable onto which the donor's is written; None if there is none, or no single one."""
        if self._recipient_scheme is None:
            same = self._recipient.find(variable.name)
            if same is not None:
                return same
        found = self._schemes()
        if found is None:
            return None
        theirs, ours = found
        number = theirs.number(variable.name)
        if number is None:
            return None
        slots = schemes.slots(self._recipient)
        mates = [mate for mate in ours.layers(self._recipient).get(number, []) if mate.name not in slots]
        rest = self._rest(theirs, self._donor, variable)
        rests = [self._rest(ours, self._recipient, mate) for mate in mates]
        fitting = [mate for mate, other in zip(mates, rests, strict=True) if other == rest]
        if not fitting and schemes.role(rest) is not None:
            fitting = [
                mate for mate, other in zip(mates, rests, strict=True) if schemes.role(other) == schemes.role(rest)
            ]
        return fitting[0] if len(fitting) == 1 else None

    def _rest(self, scheme: schemes.Scheme, checkpoint: Checkpoint, variable: Variable) -> str:
        """What tells a variable apart within its layer: its name after the layer's, or its last component."""
        if isinstance(scheme, schemes.PatternScheme):
            match = schemes.compile_pattern(scheme.pattern).fullmatch(variable.name)
            number = match and max(match.end(group) for group in match.groupdict())
            return variable.name[number if number and number > 0 else scheme.pattern.index("{") :]
        return (checkpoint.full_name(variable.name) or variable.name).rpartition("/")[2]

    def _schemes(self) -> tuple[schemes.Scheme, schemes.Scheme] | None:
        if not self._looked and self._selection.layers is not None:
            self._looked = True
            try:
                theirs = schemes.find(self._donor, self._selection.scheme)
                ours = schemes.find(self._recipient, self._recipient_scheme or self._shared_pattern(theirs))
            except CkptSurgeonError:
                if self._recipient_scheme is not None:
                    raise
                return None
            self._layers = (theirs, ours)
        return self._layers

    def _shared_pattern(self, theirs: schemes.Scheme) -> str | None:
        """The donor's scheme, if the recipient has layers by it."""
        return theirs.name if theirs.layers(self._recipient) else None


class Rename:
    r"""One rename that a user asked for.

    Args:
        text: `A=B`, where A is a name, a prefix that ends in `/`, or a glob whose wildcards fill those of B in order.
        regex: A is a regular expression, B its replacement with `\1` or `\g<name>`.

    Raises:
        UsageError: no `=`, no regular expression, or wildcards that do not fit.
    """

    def __init__(self, text: str, regex: bool = False) -> None:
        self.old, equals, self.new = text.partition("=")
        if not equals or not self.old:
            raise UsageError(f"{text!r} is no rename", expected="A=B")
        self._regex: re.Pattern[str] | None = None
        if regex:
            try:
                self._regex = re.compile(self.old)
                re.sub(self._regex, self.new, "")
            except (re.error, IndexError) as error:
                raise UsageError(f"{text!r} is no rename by a regular expression: {error}") from None
        elif len(_WILDCARD.findall(self.old)) != len(_WILDCARD.findall(self.new)):
            raise UsageError(f"{text!r}: the two names have different numbers of wildcards")

    def apply(self, checkpoint: Checkpoint) -> dict[str, str]:
        """The new names of the variables that it matches."""
        if self._regex is not None:
            names = checkpoint.variables
            return {name: self._regex.sub(self.new, name) for name in names if self._regex.search(name)}
        exact = checkpoint.find(self.old)
        if exact is not None:
            return {exact.name: self.new}
        if self.old.endswith("/"):
            return {
                name: self.new + name[len(self.old) :] for name in checkpoint.variables if name.startswith(self.old)
            }
        pieces = iter(_WILDCARD.split(self.old))
        expression = re.escape(next(pieces))
        for wildcard, literal in zip(_WILDCARD.findall(self.old), pieces, strict=True):
            expression += f"({_MATCHES[wildcard]}){re.escape(literal)}"
        found = {}
        for name in checkpoint.variables:
            match = re.fullmatch(expression, name, re.DOTALL)
            if match is not None:
                parts = iter(match.groups())
                literals = _WILDCARD.split(self.new)
                found[name] = literals[0] + "".join(next(parts) + literal for literal in literals[1:])
        return found
