"""The variables of a checkpoint as a tree of folders, which the separators in their names make."""

from __future__ import annotations

from .. import schemes
from ..names import natural_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..checkpoint import Checkpoint, Variable


class _Folder:
    """The variables whose names begin alike, up to a separator; the counts include those of folders inside."""

    __slots__ = ("bytes", "folders", "parameters", "variables")

    def __init__(self) -> None:
        self.folders: dict[str, _Folder] = {}
        self.variables: dict[str, tuple[Variable, int, int | None]] = {}  # with parameters and bytes
        self.parameters = self.bytes = 0


def rows(checkpoint: Checkpoint, variables: list[Variable]) -> Iterator[dict[str, Any]]:
    """The rows of `listing.tree`.

    Args:
        checkpoint: open.
        variables: which of its variables, in the order in which a folder lists them.
    """
    waiting = [(0, "", _filled(checkpoint, variables))]  # a stack: names may be deeper than calls can be
    while waiting:
        level, name, folder = waiting.pop()
        while not folder.variables and len(folder.folders) == 1:
            inner, folder = next(iter(folder.folders.items()))
            name += inner
        if name:
            yield _row(level, name, None, folder.parameters, folder.bytes)
            level += 1
        for last, (variable, parameters, size) in folder.variables.items():
            yield _row(level, last, variable, parameters, size)
        inside = sorted(folder.folders.items(), key=lambda item: natural_key(item[0]), reverse=True)
        waiting += [(level, each, inner) for each, inner in inside]


def _filled(checkpoint: Checkpoint, variables: list[Variable]) -> _Folder:
    """The root, with all variables in their folders."""
    separator = "/" if any("/" in variable.name for variable in variables) else "."
    slots = schemes.slots(checkpoint)
    root = _Folder()
    for variable in variables:
        *parents, last = variable.name.split(separator)
        size = checkpoint.nbytes(variable)
        parameters = variable.size if variable.is_numeric and variable.name not in slots else 0
        path = [root]
        for parent in parents:
            path.append(path[-1].folders.setdefault(parent + separator, _Folder()))
        for folder in path:
            folder.bytes += size or 0
            folder.parameters += parameters
        path[-1].variables[last] = variable, parameters, size
    return root


def _row(level: int, name: str, variable: Variable | None, parameters: int, size: int | None) -> dict[str, Any]:
    return {
        "level": level,
        "name": name,
        "dtype": variable.dtype if variable else None,
        "shape": variable.shape if variable else None,
        "parameters": parameters,
        "bytes": size,
    }
