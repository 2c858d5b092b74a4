"""Paths of edges in the keys of an object graph's rows, and how keys escape the names of edges.

Source: `tensorflow/python/trackable/trackable_utils.py`.
"""

from __future__ import annotations

from ....names import ATTRIBUTES, OBJECT_SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    Path = tuple[str, ...]

_MAX_DEPTH = 255  # edges on a path that is followed


def escape(name: str) -> str:
    """The name of an edge as keys spell it."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(name: str) -> str:
    """The name of the edge that a part of a key spells: `..` is a dot, `.S` a slash."""
    return ".".join(part.replace(".S", "/") for part in name.split("..")) if "." in name else name


def path_of(key: str) -> Path | None:
    """The path of edges that a key spells; None for the key of a slot or of no object."""
    path, found, _ = key.rpartition(ATTRIBUTES)
    names = path.split("/")
    if not found or OBJECT_SLOT in key or len(names) > _MAX_DEPTH:
        return None
    return tuple(map(unescape, names)) if "." in path else tuple(names)
