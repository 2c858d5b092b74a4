"""The variables of a checkpoint as a tree: folders with what lies in them, for people to read."""

from __future__ import annotations

from .. import schemes
from ..names import natural_key
from . import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..checkpoint import Checkpoint, Variable


class _Folder:
    """What names have in common up to a separator."""

    __slots__ = ("bytes", "folders", "parameters", "variables")

    def __init__(self) -> None:
        self.folders: dict[str, _Folder] = {}
        self.variables: dict[str, Variable] = {}
        self.parameters = self.bytes = 0


def lines(checkpoint: Checkpoint, variables: list[Variable]) -> Iterable[str]:
    """The tree, two columns a level; a folder that holds nothing but another stands in one line with it.

    Args:
        checkpoint: open.
        variables: which ones.
    """
    separator = "/" if any("/" in variable.name for variable in variables) else "."
    slots = schemes.slots(checkpoint)
    root = _Folder()
    for variable in variables:
        *parents, name = variable.name.split(separator)
        size = checkpoint.nbytes(variable) or 0
        parameters = variable.size if variable.is_numeric and variable.name not in slots else 0
        folder = root
        for parent in parents:
            folder.bytes += size
            folder.parameters += parameters
            folder = folder.folders.setdefault(parent + separator, _Folder())
        folder.bytes += size
        folder.parameters += parameters
        folder.variables[name] = variable
    told = list(_told(root))
    width = max(len(text) for text, _ in told)
    for text, rest in told:
        yield f"{text.ljust(width)}  {rest}".rstrip()


def _told(root: _Folder) -> Iterable[tuple[str, str]]:
    """Each line's name, indented, and what is said of it."""
    waiting = [(0, "", root)]  # a stack: names may be deeper than calls can be
    while waiting:
        level, name, folder = waiting.pop()
        while not folder.variables and len(folder.folders) == 1:
            inner, folder = next(iter(folder.folders.items()))
            name += inner
        if name:
            count = f"{folder.parameters} parameters, {render.size(folder.bytes)}"
            yield "  " * level + render.text(name), count
            level += 1
        for each, variable in folder.variables.items():
            said = f"{variable.dtype} {render.text(variable.shape)}"
            yield "  " * level + render.text(each), said
        inside = sorted(folder.folders.items(), key=lambda item: natural_key(item[0]), reverse=True)
        waiting += [(level, each, inner) for each, inner in inside]
