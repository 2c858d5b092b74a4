"""Paths of edges in the keys of an object graph's rows, and the escaping of edge names in keys.

Source: `tensorflow/python/trackable/trackable_utils.py`.
"""

from __future__ import annotations

from ....names import ATTRIBUTES, OBJECT_SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    Path = tuple[str, ...]

_MAX_DEPTH = 255  # longest path that is followed, in edges


def escape(name: str) -> str:
    """Return the name of an edge as written in keys."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(name: str) -> str:
    """Return the edge name for a part of a key: `.S` stands for a slash, `..` for a dot."""
    return ".".join(part.replace(".S", "/") for part in name.split("..")) if "." in name else name


def path_of(key: str) -> Path | None:
    """Return the path of edges in a key; None for the key of a slot, or a key that is not an object's."""
    path, found, _ = key.rpartition(ATTRIBUTES)
    names = path.split("/")
    if not found or OBJECT_SLOT in key or len(names) > _MAX_DEPTH:
        return None
    return tuple(map(unescape, names)) if "." in path else tuple(names)
