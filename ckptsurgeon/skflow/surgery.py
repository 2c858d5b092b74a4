"""Grafts into a model in memory, by the same plan as those into a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .. import formats
from ..checkpoint import ITEM_SIZE, Checkpoint, Extent, Variable
from ..errors import UsageError
from ..plan import Copy, Elements, Fill, Report, Values
from ..surgeon import grafting
from ..surgeon.selection import Selection

if TYPE_CHECKING:
    from ..plan import Content
    from .net_estimator import NetEstimator
    from .training import Net


class NetCheckpoint(Checkpoint):
    """The variables of a fitted estimator, to be read like those of a file.

    Args:
        estimator: it; reading follows its training.
    """

    format = "memory"

    def __init__(self, estimator: NetEstimator) -> None:
        super().__init__(type(estimator).__name__, "")
        self._net: Net = estimator._net
        for name, variable in self._net.variables.items():
            dtype, shape = variable.dtype.base_dtype.name, tuple(variable.shape)
            self.variables[name] = Variable(name, name.encode(), dtype, shape, ())

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """Yield nothing: there are no extents."""
        yield from ()

    def check(self, variable: Variable) -> None:
        """Do nothing: there is no checksum."""

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a variable's values."""
        return self._net.read([self[name].name])[0]

    def nbytes(self, variable: Variable) -> int | None:
        """Return the size of a variable's values."""
        return variable.size * ITEM_SIZE[variable.dtype]

    def fingerprint(self) -> str:
        """Return a digest of all values."""
        digest = sha256()
        for name, values in self._net.values().items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


def graft(
    donor: NetEstimator | str | os.PathLike[str],
    recipient: NetEstimator,
    selection: Selection,
    options: grafting.Options,
) -> Report:
    """Give variables of a fitted estimator the values that a donor's have: all that were asked for, or none.

    Args:
        donor: a fitted estimator, or any spelling of a checkpoint's path.
        recipient: a fitted estimator.
        selection: which variables, by the donor's names and layers.
        options: how.

    Raises:
        CkptSurgeonError: nothing was changed; `lines` says all that is wrong.
    """
    if selection.is_empty and not options.maps:
        raise UsageError("nothing is selected", expected="layers, match or maps")
    if options.slots.action == "drop":
        raise UsageError("a model needs its slots", hint="slots='fill=0.1' sets them to a number")
    with _opened(donor) as source:
        plan = grafting.graft(source, NetCheckpoint(recipient), selection, options)
        values = {change.name: _value(change.content, change.variable) for change in plan.changes if change.content}
    if values:  # all that was selected may have been passed over
        recipient._net.write(values)
    return Report(type(recipient).__name__, plan)


def _opened(donor: NetEstimator | str | os.PathLike[str]) -> AbstractContextManager[Checkpoint]:
    if isinstance(donor, (str, os.PathLike)):
        return formats.open(os.fspath(donor))
    check_is_fitted(donor)
    return NetCheckpoint(donor)


def _value(content: Content, variable: Variable) -> NDArray[Any]:
    """Return what a variable becomes, of its shape and dtype."""
    if isinstance(content, Copy):
        return content.donor.read(content.variable.name).reshape(variable.shape)
    if isinstance(content, Elements):
        return np.concatenate(list(content.make())).reshape(variable.shape)
    if isinstance(content, Fill):
        return np.full(variable.shape, content.number, variable.dtype)
    assert isinstance(content, Values)
    return content.values
