"""The options of a graft, in one place for the command line, the Python API and the planner."""

from __future__ import annotations

from ..errors import UsageError
from .selection import Selection
from .slots import SlotPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, TypedDict

    from .maps import Map

    class GraftKeywords(TypedDict, total=False):
        """The types of the options, for functions that hand them on; `GraftOptions` explains each."""

        layers: str | None
        match: Sequence[str]
        exclude: Sequence[str]
        scheme: str | None
        donor_scheme: str | None
        recipient_scheme: str | None
        maps: Sequence[str]
        slots: str
        on_mismatch: str
        cast: bool
        add: bool
        link: bool


class GraftOptions:
    """Which variables a graft rewrites, and how.

    Args:
        slots: what happens to the slots of the grafted variables: "keep", "copy", "drop" or "fill=NUMBER".
        layers: a range of layers, inclusive, counted on the donor: "0-2", "3,5-", "-1", "all".
        match: globs of names, which select in addition to the layers.
        exclude: globs of names that are removed from the selection.
        scheme: how both checkpoints name their layers; None: found from the names.
        donor_scheme: how the donor names its layers, where the two differ.
        recipient_scheme: how the recipient does. Within a layer, variables pair by the rest of their names or, where
            these differ, by their role (kernel, bias).
        maps: `A=B` each: the donor's A (a name, a glob, or a prefix that ends in "/") goes onto the recipient's B,
            whose n-th wildcard is filled by A's n-th; `B.T` transposes a matrix. Without layers and match, the maps
            are the selection.
        on_mismatch: "error", or "skip" variables that are missing on one side, or differ in shape or dtype.
        cast: convert values to the recipient's dtype.
        add: add variables that the recipient lacks.
        link: share the donor's data files, unread, instead of copying from them.

    Attributes:
        selection: what `layers`, `match`, `exclude` and the donor's scheme select.
        slots: the policy for slots.
        maps: the parsed maps.
        skip: whether variables that do not fit are skipped.

    Raises:
        UsageError: an option is invalid, or contradicts another one.
    """

    def __init__(
        self,
        slots: str = "keep",
        *,
        layers: str | None = None,
        match: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scheme: str | None = None,
        donor_scheme: str | None = None,
        recipient_scheme: str | None = None,
        maps: Sequence[str] = (),
        on_mismatch: str = "error",
        cast: bool = False,
        add: bool = False,
        link: bool = False,
    ) -> None:
        if scheme is not None and (donor_scheme or recipient_scheme):
            expected = "either --scheme, or --donor-scheme and --recipient-scheme"
            raise UsageError("--scheme applies to both checkpoints", expected=expected)
        if on_mismatch not in ("error", "skip"):
            raise UsageError(f"invalid --on-mismatch {on_mismatch!r}", expected="error or skip")
        option = "--donor-scheme" if donor_scheme or recipient_scheme else "--scheme"
        self.selection = Selection(layers, match, exclude, donor_scheme or scheme, option)
        self.slots = SlotPolicy(slots)
        self.recipient_scheme = recipient_scheme
        self.maps: list[Map] = []
        if maps:
            from .maps import Map

            self.maps = [Map(text) for text in maps]
        self.skip = on_mismatch == "skip"
        self.cast = cast
        self.add = add
        self.link = link


def graft_keywords(values: Mapping[str, Any]) -> GraftKeywords:
    """The options of a graft among other values, as the keyword arguments of `GraftOptions`.

    Args:
        values: by name; the parser calls each option as its keyword is called.
    """
    names = ("slots", *(GraftOptions.__init__.__kwdefaults__ or ()))
    found: Any = {name: values[name] for name in names if name in values}
    keywords: GraftKeywords = found
    return keywords
