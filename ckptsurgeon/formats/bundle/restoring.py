"""Finds the rows that a SavedModel restores: the names that `saved_model.pb` gives to its RestoreV2 operations.

TensorFlow Serving and `tf.compat.v1.saved_model.load` run these operations; `tf.saved_model.load` walks the object
graph, whose keys they list too. Both fail if a single row is missing or has another dtype.

    SavedModel           2 meta_graphs
    MetaGraphDef         2 graph_def
    GraphDef             1 node, 2 library
    FunctionDefLibrary   1 function
    FunctionDef          3 node_def
    NodeDef              2 op, 5 attr
    AttrValue            8 tensor
    TensorProto          8 string_val

Sources: the .proto files in `tensorflow/core/protobuf` and `core/framework`; observed on TensorFlow 2.21.
"""

from __future__ import annotations

from ...errors import DamagedError
from ..tensorflow.wire import BYTES, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_RESTORES = b"RestoreV2"
_CONSTANT = b"Const"


def restored(data: bytes) -> set[bytes]:
    """Return the strings among which are the names of all rows that a SavedModel restores.

    They are the string constants of each graph and function that has a RestoreV2 operation.

    Args:
        data: the content of `saved_model.pb`.

    Raises:
        DamagedError: it is not a SavedModel.
    """
    found: set[bytes] = set()
    for meta_graph in _messages(memoryview(data), 2):
        for graph in _messages(meta_graph, 2):
            found |= _constants(_messages(graph, 1))
            for library in _messages(graph, 2):
                for function in _messages(library, 1):
                    if _RESTORES in bytes(function):  # most functions compute something else, and are large
                        found |= _constants(_messages(function, 3))
    return found


def _constants(nodes: Iterator[Any]) -> set[bytes]:
    """Return all strings in the constants of a graph or function; nothing if it restores nothing."""
    found: set[bytes] = set()
    restores = False
    for node in nodes:
        op = next(_messages(node, 2), b"")
        restores |= op == _RESTORES
        if op == _CONSTANT:
            for attribute in _messages(node, 5):
                for value in _messages(attribute, 2):
                    for tensor in _messages(value, 8):
                        found.update(bytes(text) for text in _messages(tensor, 8))
    return found if restores else set()


def _messages(message: Any, number: int) -> Iterator[Any]:
    """Yield the values of one field that holds messages or strings."""
    for field, kind, value, _ in fields(message):
        if field == number:
            if kind != BYTES:
                raise DamagedError("damaged: not a SavedModel's protobuf message")
            yield value
