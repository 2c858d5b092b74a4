"""The object graph of TensorFlow 2's checkpoints: reads it, and updates it when rows are renamed, dropped or added.

The string `_CHECKPOINTABLE_OBJECT_GRAPH` holds objects, named edges between them, and the keys of each object's rows.
TensorFlow restores by walking edges by name from object 0. It reads the rows whose keys the objects' attributes hold,
even if the text of a key spells a different path.

    TrackableObjectGraph   1 nodes
    TrackableObject        1 children, 2 attributes, 3 slot_variables, 4 registered_saver, 5 has_checkpoint_values
    ObjectReference        1 node_id, 2 local_name
    SerializedTensor       1 name, 2 full_name, 3 checkpoint_key
    SlotVariableReference  1 original_variable_node_id, 2 slot_name, 3 slot_variable_node_id

Source: `tensorflow/core/protobuf/trackable_object_graph.proto`; edits were tried on TensorFlow 2.21. Key bytes that are
not UTF-8 become lone surrogates.
"""

from __future__ import annotations

from ....errors import CkptSurgeonError
from . import edits, layers, slots
from .nodes import Objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    Argument = TypeVar("Argument")


class Graph:
    """An object graph.

    Args:
        data: the serialized TrackableObjectGraph.
        objects: its decoded objects, if they have already been read.

    Raises:
        DamagedError: the bytes are not an object graph, or an edge points to a missing node.
    """

    def __init__(self, data: bytes, objects: Objects | None = None) -> None:
        self._data = data
        self._objects: Objects | None = objects or Objects(data)
        self._owners: slots.SlotOwners | None = None

    @property
    def objects(self) -> Objects:
        """The objects after the last edit; 0 is the root. There may be cycles."""
        if self._objects is None:
            self._objects = Objects(self._data)
        return self._objects

    def copy(self) -> Graph:
        """Return an independent copy, to be edited separately."""
        return Graph(self._data, self.objects)

    def encode(self) -> bytes:
        """Return the graph's bytes; if nothing was edited, the bytes that were read."""
        return self._data

    def keys(self) -> dict[str, int]:
        """Return the node of each attribute's key; if several attributes share a key, the first one's."""
        return self.objects.by_key()

    def full_names(self) -> dict[str, str]:
        """Return the names that variables had in their program, by key; they may be missing or not unique."""
        return slots.full_names_of(self.objects)

    def at(self, path: Iterable[str], start: int = 0) -> int | None:
        """Return the node to which a path of edges leads, or None."""
        return self.objects.at(path, start)

    def slot_owners(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, str]:
        """Return slot's key -> its variable's key; see `slots.SlotOwners.all`."""
        if self._owners is None:
            self._owners = slots.SlotOwners(self.objects)
        return self._owners.all(shapes)

    def layers(self, keys: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return scheme -> key -> number of the layer; see `layers.layers`."""
        return layers.layers(self.objects, keys, self.slot_owners())

    def rename(self, changes: Mapping[str, str]) -> None:
        """Give rows new keys (old -> new); the new paths then lead to the same objects, and the old paths do not.

        If all rows below an edge move together, the edge itself moves, and the object stays as it is. For a slot only
        the key changes; a row that is not in the graph is skipped.

        Raises:
            RefusedError: the text after the path would change, the new key exists already, or another object has its
                path. The graph is unchanged.
        """
        self._edit(edits.rename, changes)

    def drop(self, rows: Iterable[str]) -> None:
        """Remove rows: their attributes, all edges to their objects, and the slot records that refer to them.

        Raises:
            RefusedError: one of a table's two rows would stay, or the slot of a removed variable. The graph is
                unchanged.
        """
        self._edit(edits.drop, rows)

    def add(self, variables: Mapping[str, str]) -> None:
        """Add variables (key -> full name, which may be empty), and the objects along their paths.

        Raises:
            RefusedError: a path leads to a variable already, or a key is not a variable's key. The graph is unchanged.
        """
        self._edit(edits.add, variables)

    def _edit(self, edit: Callable[[Objects, Argument], bytes], argument: Argument) -> None:
        """Make an edit; if it fails, the graph is unchanged."""
        try:
            data = edit(self.objects, argument)
        except CkptSurgeonError as error:
            # The traceback's frames hold the error and the objects: a reference cycle that would keep their memory.
            raise error.with_traceback(None) from None
        if data != self._data:
            self._data, self._objects, self._owners = data, None, None  # read again only when needed
