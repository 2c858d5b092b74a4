"""`ls --tree`: the variables of a checkpoint as a tree of folders, for people to read."""

from __future__ import annotations

from . import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a tree, indented by two columns a level: names on the left, what each holds on the right.

    Args:
        rows: as `listing.tree` returns them.
    """
    pairs = [("  " * row["level"] + render.text(row["name"]), _contents(row)) for row in rows]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, contents in pairs:
        yield f"{name.ljust(width)}  {contents}".rstrip()


def _contents(row: Mapping[str, Any]) -> str:
    """The dtype and shape of a variable, or the size of a folder."""
    if row["dtype"] is None:
        return f"{row['parameters']} parameters, {render.size(row['bytes'])}"
    return f"{row['dtype']} {render.text(row['shape'])}"
