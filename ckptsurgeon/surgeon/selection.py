"""Selects variables by globs and layer ranges, with exclusions."""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, UsageError, check, did_you_mean
from ..names import Pattern, natural_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..checkpoint import Checkpoint, Variable


class Selection:
    """The variables that a user selected.

    Args:
        layers: a range as `schemes.parse_layers` takes it, or None.
        match: globs; variables that match any of them are selected in addition to the layers.
        exclude: globs; variables that match are removed from the selection.
        scheme: how layers are named; None: found from the names.
        option: the option that chooses the scheme, for messages.
    """

    def __init__(
        self,
        layers: str | None = None,
        match: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scheme: str | None = None,
        option: str = "--scheme",
    ) -> None:
        self.layers = layers
        self.match = tuple(match)
        self.exclude = tuple(exclude)
        self.scheme = scheme
        self.option = option

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for, which some verbs read as everything."""
        return self.layers is None and not self.match

    def layer_numbers(self, checkpoint: Checkpoint) -> list[int]:
        """The numbers of the selected layers, rising."""
        found = schemes.find(checkpoint, self.scheme, self.option).layers(checkpoint)
        return schemes.parse_layers(self.layers or "all", list(found), checkpoint.path)

    def variables(self, checkpoint: Checkpoint) -> list[Variable]:
        """The selected variables, slots among them, in natural order; all if nothing was asked for.

        Raises:
            UsageError: a pattern or range that selects nothing, or all variables are excluded; all problems at once.
        """
        problems: list[CkptSurgeonError] = []
        chosen: dict[str, Variable] = {}
        if self.is_empty:
            chosen.update(checkpoint.variables)
        if self.layers is not None:
            try:
                found = schemes.find(checkpoint, self.scheme, self.option).layers(checkpoint)
                for number in schemes.parse_layers(self.layers, list(found), checkpoint.path):
                    chosen.update((variable.name, variable) for variable in found[number])
            except CkptSurgeonError as error:
                problems.append(error)
        elif self.scheme is not None:
            schemes.find(
                checkpoint, self.scheme, self.option
            )  # it chooses nothing here, but one that fits nothing is a mistake
        for pattern in self.match:
            matched = matching(checkpoint, pattern)
            if not matched:
                problems.append(_nothing(checkpoint, pattern))
            chosen.update((variable.name, variable) for variable in matched)
        check(problems)
        return natural_order(self.left_of(checkpoint, chosen.values()))

    def left_of(self, checkpoint: Checkpoint, chosen: Iterable[Variable]) -> list[Variable]:
        """What `exclude` leaves of variables that are selected otherwise.

        Raises:
            UsageError: a pattern that takes nothing away, or all variables are excluded; all problems at once.
        """
        problems: list[CkptSurgeonError] = []
        left = {variable.name: variable for variable in chosen}
        asked = set(left)
        for pattern in self.exclude:
            matched = [variable for variable in matching(checkpoint, pattern) if variable.name in asked]
            if not matched:
                what = f"--exclude {pattern} matches nothing in the selection"
                problems.append(UsageError(what, path=checkpoint.path))
            for variable in matched:
                left.pop(variable.name, None)  # another pattern may have taken it too
        if not left and not problems:
            problems.append(UsageError("--exclude removes the whole selection", path=checkpoint.path))
        check(problems)
        return list(left.values())


def matching(checkpoint: Checkpoint, pattern: str) -> list[Variable]:
    """The variables that a glob matches; an existing name matches only itself."""
    exact = checkpoint.named(pattern)
    if exact is not None:
        return [exact]
    matches = Pattern(pattern).matches
    return [variable for name, variable in checkpoint.variables.items() if matches(name)]


def _nothing(checkpoint: Checkpoint, pattern: str) -> UsageError:
    hint = did_you_mean(pattern, checkpoint.variables)
    if hint is None and pattern.endswith("*") and not pattern.endswith("**"):
        hint = "* stays within a path component, ** crosses /"
    return UsageError(f"nothing matches {pattern}", path=checkpoint.path, hint=hint)
