"""Names, layers and slots that a bundle's object graph records, and updates of the graph when variables change.

The graph is stored in the bundle as one string variable; `graph/` decodes and edits it.
"""

from __future__ import annotations

from ...checkpoint import GRAPH
from ...errors import CkptSurgeonError
from .graph.graph import Graph
from .strings import read_strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeVar

    from ...checkpoint import Edit, Variable
    from .shards import Shards

    Value = TypeVar("Value")


class BundleGraph:
    """The object graph of a bundle, addressed by the names of variables.

    The graph is read once, by the first method that needs it; `consequences` needs it only for changes that affect it.
    Reading raises DamagedError if the graph or its checksum is wrong, NotFoundError if its shard is missing.

    Args:
        path: the bundle's prefix, for error messages.
        variables: all variables of the bundle by name, including the graph's own.
        data: the bundle's data files.
    """

    def __init__(self, path: str, variables: Mapping[str, Variable], data: Shards) -> None:
        self._path = path
        self._variables = variables
        self._data = data
        self._names = {_text(variable.key): name for name, variable in variables.items()}
        self._read: Graph | None = None
        self._full_names: dict[str, str] | None = None

    @property
    def _graph(self) -> Graph:
        """The graph, read on first use."""
        if self._read is None:
            extent = self._variables[GRAPH].extents[0]
            try:
                self._read = Graph(read_strings(self._data, extent, 1)[0])
            except CkptSurgeonError as error:
                error.path = error.path or f"{self._path}: {GRAPH}"
                raise
        return self._read

    def full_names(self) -> dict[str, str]:
        """Return the names that variables had in their program."""
        if self._full_names is None:
            self._full_names = self._named(self._graph.full_names())
        return self._full_names

    def slot_owners(self) -> dict[str, str]:
        """Return slot -> its variable."""
        shapes = {key: self._variables[name].shape for key, name in self._names.items()}
        owners = self._named(self._graph.slot_owners(shapes))
        return {slot: self._names[owner] for slot, owner in owners.items() if owner in self._names}

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """Return the layers by scheme."""
        return {scheme: self._named(table) for scheme, table in self._graph.layers(self._names).items() if table}

    def _named(self, by_key: dict[str, Value]) -> dict[str, Value]:
        return {self._names[key]: value for key, value in by_key.items() if key in self._names}

    def consequences(self, changes: Sequence[Edit]) -> dict[str, bytes]:
        """Return the graph's new bytes under its name, if the changes affect it; otherwise an empty dict."""
        if any(change.variable.name == GRAPH for change in changes):
            return {}  # an explicit change of the graph takes precedence
        dropped = [_text(change.key) for change in changes if change.action == "dropped"]
        renamed = {_text(change.variable.key): _text(change.key) for change in changes if change.action == "renamed"}
        added = {_text(change.key): _full_name(change) for change in changes if change.action == "added"}
        if not dropped and not renamed and not added:
            return {}
        graph = self._graph.copy()
        try:
            graph.drop(dropped)
            graph.rename(renamed)
            graph.add(added)
        except CkptSurgeonError as error:
            error.path = error.path or self._path
            raise
        return {GRAPH: graph.encode()}


def _full_name(change: Edit) -> str:
    donor = change.donor
    return (donor.full_name(change.source or "") if donor is not None else None) or change.name


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
