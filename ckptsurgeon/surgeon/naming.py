"""Names of one checkpoint and of another: onto which variable a graft writes which, and what a rename makes of one."""

from __future__ import annotations

import re

from .. import schemes
from ..errors import CkptSurgeonError, RefusedError, UsageError
from ..names import TOKENS, compile_pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..checkpoint import Checkpoint, Variable
    from .selection import Selection


_MOST_SHOWN = 6  # names of a list in a message


class Pairs:
    """Which variable of the recipient answers to which of the donor.

    The one of the same name. Where there is none, and layers or schemes were asked for, the one in the layer of the
    same number whose rest of the name is the same, else the only one there of the same role (kernel, bias). Where both
    containers number their layers themselves, layers come before names: `optimizer/_trainable_variables/4` may be one
    layer's kernel here and another's bias there.

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
        self._names_decide = recipient_scheme is None and (selection.layers is None or not donor.layer_tables())
        self._layers: _Layers | None = None
        self._looked = False

    def target(self, variable: Variable) -> Variable | None:
        """The recipient's variable onto which the donor's is written; None if the recipient has none.

        Raises:
            UsageError: nothing fits a scheme that was asked for.
            RefusedError: the variables of its layer do not pair.
        """
        same = self._recipient.find(variable.name)
        if same is not None and self._names_decide:
            return same
        layers = self._both()
        number = layers.theirs.number(variable.name) if layers else None
        if layers is None or number is None:
            return same
        if same is not None and self._recipient_scheme is None and not layers.numbered_by_both:
            return same
        return layers.target(number, variable, self._selection.layers is not None and not self._selection.exclude)

    def lacking(self, found: set[str]) -> list[Variable]:
        """The variables, slots apart, in the recipient's layers of the selected numbers onto which none is written.

        Args:
            found: names of those onto which one is.
        """
        layers = self._both() if self._selection.layers is not None else None
        if layers is None:
            return []
        numbers = self._selection.layer_numbers(self._donor)
        return [self._recipient[name] for name in layers.names(numbers) if name not in found]

    def _both(self) -> _Layers | None:
        """The layers of both; None if nobody asked for them, or those of the recipient are not to be told."""
        asked = self._selection.scheme or self._recipient_scheme or self._selection.layers
        if not self._looked and asked is not None:
            self._looked = True
            theirs = schemes.find(self._donor, self._selection.scheme)
            try:
                ours = schemes.find(self._recipient, self._recipient_scheme or self._shared(theirs))
            except CkptSurgeonError:
                if self._recipient_scheme is not None:
                    raise
                return None
            self._layers = _Layers(self._donor, self._recipient, theirs, ours)
        return self._layers

    def _shared(self, theirs: schemes.Scheme) -> str | None:
        """The donor's scheme, if the recipient has layers by it."""
        if isinstance(theirs, schemes.TableScheme):
            return theirs.name if theirs.name in self._recipient.layer_tables() else None
        return theirs.name if theirs.layers(self._recipient) else None


class _Layers:
    """The layers of a donor and of a recipient, each by its scheme.

    Attributes:
        theirs: the donor's scheme.
        numbered_by_both: whether both containers number their layers themselves.
    """

    def __init__(self, donor: Checkpoint, recipient: Checkpoint, theirs: schemes.Scheme, ours: schemes.Scheme) -> None:
        tables = [isinstance(scheme, schemes.TableScheme) for scheme in (theirs, ours)]
        self.theirs = theirs
        self.numbered_by_both = all(tables)
        self._same = theirs.name == ours.name and not any(tables)
        self._recipient = recipient
        self._donors = _rests(donor, theirs, any(tables))
        self._recipients = _rests(recipient, ours, any(tables))
        self._pairs: dict[int, dict[str, str]] = {}

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The recipient's variables, slots apart, in the layers of these numbers."""
        return [name for number in numbers for name in self._recipients.get(number, {})]

    def target(self, number: int, variable: Variable, whole: bool) -> Variable | None:
        """The recipient's variable that answers to one of the donor's; None if its layer has none left.

        Args:
            number: of the layer.
            variable: the donor's.
            whole: the recipient's layer may have none either that answers to no variable.

        Raises:
            RefusedError: they do not pair.
        """
        donors, recipients = self._donors.get(number, {}), self._recipients.get(number, {})
        if number not in self._pairs:
            self._pairs[number] = _paired(donors, recipients)
        pairs = self._pairs[number]
        left = [name for name in donors if name not in pairs]
        right = [name for name in recipients if name not in pairs.values()]
        if right and not self._same and (variable.name in left or (whole and not left)):
            raise RefusedError(
                f"layer {number}: the variables of donor and recipient do not pair",
                path=self._recipient.path,
                expected=f"what answers to {_shown(left)}" if left else "no more than the donor's",
                found=_shown(right),
                hint="--match names variables one by one",
            )
        name = pairs.get(variable.name)
        return None if name is None else self._recipient[name]


def _shown(names: list[str]) -> str:
    """Names as a message lists them."""
    more = [f"{len(names) - _MOST_SHOWN} more"] if len(names) > _MOST_SHOWN else []
    return " and ".join(names[:_MOST_SHOWN] + more)


def _rests(checkpoint: Checkpoint, scheme: schemes.Scheme, short: bool) -> dict[int, dict[str, str]]:
    """By layer, what tells a variable apart within it: its name after the layer's, or, `short`, its last component."""
    slots = schemes.slots(checkpoint)
    found: dict[int, dict[str, str]] = {}
    for number, variables in scheme.layers(checkpoint).items():
        rests = found[number] = {}
        for name in (variable.name for variable in variables if variable.name not in slots):
            rest = name
            if isinstance(scheme, schemes.PatternScheme):
                match = scheme.expression.fullmatch(name)
                rest = name[match.end(scheme.group) :] if match else name
            elif isinstance(scheme, schemes.TableScheme):
                rest = checkpoint.full_name(name) or name
            rests[name] = rest.rpartition("/")[2] if short else rest
    return found


def _paired(donors: dict[str, str], recipients: dict[str, str]) -> dict[str, str]:
    """The variables of one layer that pair, by their names and rests: what tells one on either side, step by step."""
    found: dict[str, str] = {}
    steps: tuple[Callable[[str, str], object], ...] = (
        lambda name, rest: (name, rest),
        lambda name, rest: (name.rpartition("/")[2], rest),
        lambda name, rest: rest,
        lambda name, rest: schemes.role(rest),
    )
    for step in steps:
        theirs, ours = _told(donors, step), _told(recipients, step)
        taken = set(found.values())
        for said, name in theirs.items():
            if name not in found and said in ours and ours[said] not in taken:
                found[name] = ours[said]
    return found


def _told(rests: dict[str, str], step: Callable[[str, str], object]) -> dict[object, str]:
    """Variables by what no other one of their layer says; who says nothing is not told."""
    by_word: dict[object, list[str]] = {}
    for name, rest in rests.items():
        by_word.setdefault(step(name, rest), []).append(name)
    return {word: names[0] for word, names in by_word.items() if len(names) == 1 and word is not None}


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


def _filled(old: str, new: str, text: str) -> str:
    """What a wildcard's text becomes in the place of another one; `{K}` and `{_K}` spell a number differently."""
    if new == "{_K}":
        number = text.removeprefix("_")
        return f"_{number}" if number.strip("0") else ""
    return text.removeprefix("_") or "0" if (old, new) == ("{_K}", "{K}") else text
