"""Grafts into a model in memory, with the same plan as grafts into a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import formats
from ..checkpoint import ITEM_SIZE, Checkpoint, Extent, Variable
from ..errors import UsageError
from ..plan import Copy, Elements, Fill, Report, Values
from ..surgeon import grafting

if TYPE_CHECKING:
    from ..plan import Content
    from ..surgeon.options import GraftOptions
    from .graph.model_session import ModelSession


class NetCheckpoint(Checkpoint):
    """The variables of a network in memory, read like those of a file.

    Args:
        name: what to call it in messages.
        net: the network; reads return its current values.
    """

    format = "memory"

    def __init__(self, name: str, net: ModelSession) -> None:
        super().__init__(name, "")
        self.net = net
        for name, variable in net.variables.items():
            dtype, shape = variable.dtype.base_dtype.name, net.shapes[name]
            self.variables[name] = Variable(name, name.encode(), dtype, shape, ())

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """Yield nothing: variables in memory have no extents."""
        yield from ()

    def check(self, variable: Variable) -> None:
        """Do nothing: variables in memory have no checksums."""

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a variable's values."""
        return self.net.read([self[name].name])[0]

    def nbytes(self, variable: Variable) -> int | None:
        """Return the size of a variable's values."""
        return variable.size * ITEM_SIZE[variable.dtype]

    def fingerprint(self) -> str:
        """Return a digest of all values."""
        digest = sha256()
        for name, values in self.net.values().items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


def graft(
    donor: NetCheckpoint | str | os.PathLike[str],
    recipient: NetCheckpoint,
    options: GraftOptions,
) -> Report:
    """Copy variables of a donor into a network in memory: either all that were selected, or none.

    Args:
        donor: another network in memory, or any spelling of a checkpoint's path.
        recipient: the network to change.
        options: which variables to graft, and how.

    Raises:
        CkptSurgeonError: nothing was changed; `lines` lists every problem.
    """
    if options.selection.is_empty and not options.maps:
        raise UsageError("nothing is selected", expected="layers, match or maps")
    if options.add or options.link:
        raise UsageError("a model in memory takes neither add nor link", hint="write a checkpoint, and graft into that")
    if options.slots.action == "drop":
        raise UsageError("a model needs its slots", hint="slots='fill=0.1' sets them to a number")
    with formats.open(os.fspath(donor)) if isinstance(donor, (str, os.PathLike)) else donor as source:
        plan = grafting.graft(source, recipient, options)
        values = {change.name: _value(change.content, change.variable) for change in plan.changes if change.content}
    if values:  # empty if every selected variable was skipped
        recipient.net.write(values)
    return Report(recipient.path, plan)


def _value(content: Content, variable: Variable) -> NDArray[Any]:
    """Return the new value of a variable, in its shape and dtype."""
    if isinstance(content, Copy):
        return content.donor.read(content.variable.name).reshape(variable.shape)
    if isinstance(content, Elements):
        return np.concatenate(list(content.make())).reshape(variable.shape)
    if isinstance(content, Fill):
        return np.full(variable.shape, content.number, variable.dtype)
    assert isinstance(content, Values)
    return content.values
