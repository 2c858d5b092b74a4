"""The trunk of each model: which variables form it, their common names, and how the trunk is grafted.

The models share variables under common names: those of the first model without a `map` in ring.toml. A model's map
assigns its names to common ones; without a map, variables are matched as in `graft --layers`, by name, layer and role.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import formats, numeric, schemes
from ...checkpoint import Checkpoint
from ...errors import CkptSurgeonError, Problems, RefusedError, UsageError, check, did_you_mean
from ...formats import table
from ...names import Pattern
from ...surgeon import grafting
from ...surgeon.maps import Map
from ...surgeon.options import GraftOptions
from ...surgeon.selection import Selection
from ...verbs import changing
from ..schedule import TRUNK
from ..spec.records import Model, Spec
from ..spec.toml_keys import FORMATS

Floats = NDArray[np.float64]

# The hint for trunks that do not match.
_MAPS = "name the matching variables in a model's map in ring.toml; .T marks a transposed matrix"


@dataclass(frozen=True)
class TrunkVariable:
    """One variable of a model's trunk.

    Attributes:
        common: its name among all models.
        own: its name in the model's checkpoints.
        transposed: whether the model holds the matrix transposed.
    """

    common: str
    own: str
    transposed: bool


class Trunk:
    """The trunks of all models, as found in one checkpoint of each.

    Args:
        spec: the run's models.
        checkpoints: model -> the path of one of its checkpoints.

    Attributes:
        members: the variables of each model and of `TRUNK`, in the order of their common names.

    Raises:
        Problems: the models cannot share a trunk; a single reason is raised directly.
    """

    def __init__(self, spec: Spec, checkpoints: Mapping[str, str]) -> None:
        self._slots = spec.slots
        self._names = spec.names
        models = {model.name: model for model in spec.models}
        first = next((name for name in spec.names if not models[name].map), spec.names[0])
        self.members: dict[str, tuple[TrunkVariable, ...]] = {}
        self._links = {name: table.of(FORMATS[models[name].format]).shares_files for name in spec.names} | {TRUNK: True}
        problems: list[CkptSurgeonError] = []
        with formats.open(checkpoints[first]) as reference:
            common = _mapped(models[first], reference, spec) or _own(models[first], reference, spec)
            for name in spec.names:
                try:
                    with formats.open(checkpoints[name]) as checkpoint:
                        found = _members(models[name], checkpoint, models[first], reference, spec)
                    _check_same(name, first, common, found)
                    self.members[name] = tuple(sorted(found, key=lambda member: member.common))
                except CkptSurgeonError as error:
                    what = f"{spec.selection} of {name} do not match those of {first}"
                    problems += mismatches(what, error)
        check(problems)
        names = [member.common for member in self.members[first]]
        self.members[TRUNK] = tuple(TrunkVariable(name, name, False) for name in names)

    def graft(self, donor: str, source: str, recipient: str, target: str, output: str | None) -> None:
        """Graft a trunk.

        Args:
            donor: a model, or `TRUNK`.
            source: its checkpoint.
            recipient: another model.
            target: its checkpoint, which is not changed.
            output: the checkpoint to write; None to only check that the graft is possible.

        Raises:
            CkptSurgeonError: nothing was written.
        """
        pairs = list(zip(self.members[donor], self.members[recipient], strict=True))
        turned = [one.transposed != other.transposed for one, other in pairs]
        changing.graft(
            source,
            target,
            maps=[f"{one.own}={other.own}{'.T' if t else ''}" for (one, other), t in zip(pairs, turned, strict=True)],
            slots=self._slots,
            out=output,
            link=self._links[donor] and self._links[recipient] and not any(turned),
            sync=False,
            force=True,
            dry_run=output is None,
        )

    def average(self, checkpoints: Mapping[str, str], output: str) -> None:
        """Write the mean of all trunks, computed in float64 in the order of the models, under the common names.

        Args:
            checkpoints: model -> its checkpoint.
            output: prefix of the checkpoint to write; an existing one is replaced.
        """
        one = self.members[self._names[0]]
        means: dict[str, NDArray[Any]] = {}
        with formats.open(checkpoints[self._names[0]]) as first:
            kinds = [numeric.dtype(first[member.own].dtype) for member in one]
        for member, kind, (mean, _) in zip(one, kinds, self._means(checkpoints), strict=True):
            means[member.common] = mean.astype(kind)
        formats.write(output, means, sync=False)

    def distances(self, checkpoints: Mapping[str, str]) -> dict[str, float]:
        """Return the distance of each model's trunk from the mean trunk, relative to the norm of the mean.

        Args:
            checkpoints: model -> its checkpoint.
        """
        size, apart = 0.0, dict.fromkeys(self._names, 0.0)
        for mean, values in self._means(checkpoints):
            size += float(np.square(mean).sum())
            for name, each in zip(self._names, values, strict=True):
                apart[name] += float(np.square(each - mean).sum())
        return {name: ratio(total, size) for name, total in apart.items()}

    def _means(self, checkpoints: Mapping[str, str]) -> Iterator[tuple[Floats, list[Floats]]]:
        """Yield, one variable of the trunk at a time, its mean over all models and its value in each."""
        with ExitStack() as stack:
            opened = [stack.enter_context(formats.open(checkpoints[name])) for name in self._names]
            for number in range(len(self.members[TRUNK])):
                values = [
                    _values(checkpoint, self.members[name][number])
                    for name, checkpoint in zip(self._names, opened, strict=True)
                ]
                yield np.asarray(sum(values[1:], values[0]) / len(values)), values

    def vector(self, name: str, checkpoint: Checkpoint) -> Floats:
        """Return the trunk of an open checkpoint as one vector."""
        return np.concatenate([_values(checkpoint, member).ravel() for member in self.members[name]])

    def own(self, name: str) -> frozenset[str]:
        """Return the names that the variables of the trunk have in a model."""
        return frozenset(member.own for member in self.members[name])


def _members(
    model: Model, checkpoint: Checkpoint, first: Model, reference: Checkpoint, spec: Spec
) -> Sequence[TrunkVariable]:
    """Return the trunk of a model, after checking that it is complete and has the first model's shapes."""
    if model.map:
        return _mapped(model, checkpoint, spec)
    if model is first or spec.match:
        return _own(model, checkpoint, spec)
    options = GraftOptions(layers=spec.layers, donor_scheme=first.scheme, recipient_scheme=model.scheme)
    plan = grafting.graft(reference, checkpoint, options)
    return [TrunkVariable(str(c.source), c.variable.name, False) for c in plan.changes if c.action == "grafted"]


def _own(model: Model, checkpoint: Checkpoint, spec: Spec) -> list[TrunkVariable]:
    return [TrunkVariable(common, own, False) for own, common in _selected(model, checkpoint, spec).items()]


def _mapped(model: Model, checkpoint: Checkpoint, spec: Spec) -> list[TrunkVariable]:
    """Return the trunk of a model according to its map, which must name each variable of these layers."""
    maps = [(each, each.apply(checkpoint)) for each in map(Map, model.map)]
    found: list[TrunkVariable] = []
    for name in _selected(model, checkpoint, spec) if maps else ():
        targets = [(each, names[name]) for each, names in maps if name in names]
        if not targets:
            raise UsageError(f"its map does not name {name}", path=checkpoint.path)
        found += [TrunkVariable(common, name, each.transposes) for each, common in targets[:1]]
    return found


def _selected(model: Model, checkpoint: Checkpoint, spec: Spec) -> dict[str, str]:
    """Return the variables of a model's trunk, except slots: names in the checkpoint -> names that all models share.

    A glob of `match` that matches no name in the checkpoint is one of the names that variables have in their program:
    files of Keras number the layers of each class, so equal names there may be different layers.
    """
    slots = schemes.slots(checkpoint)
    if spec.layers is not None:
        selected = Selection(spec.layers, scheme=model.scheme).variables(checkpoint)
        return {variable.name: variable.name for variable in selected if variable.name not in slots}
    chosen: dict[str, str] = {}
    full = {name: checkpoint.full_name(name) or name for name in checkpoint.variables if name not in slots}
    for glob in spec.match:
        matches = Pattern(glob).matches
        found = {name: name for name in full if matches(name)} or {
            name: other for name, other in full.items() if matches(other)
        }
        if not found:
            raise UsageError(f"nothing matches {glob}", path=checkpoint.path, hint=did_you_mean(glob, full.values()))
        chosen |= found
    return chosen


def _check_same(name: str, first: str, common: Sequence[TrunkVariable], found: Sequence[TrunkVariable]) -> None:
    """Check that a model has all variables of the trunk, and no others in these layers."""
    wanted, there = {member.common for member in common}, {member.common for member in found}
    for what, names in ((f"{name} lacks", wanted - there), (f"{first} lacks", there - wanted)):
        if names:
            raise RefusedError(f"{what} {', '.join(sorted(names))}")


def mismatches(what: str, error: CkptSurgeonError) -> list[CkptSurgeonError]:
    """Return the reasons why two trunks do not match, one error each, in terms of ring.toml.

    Args:
        what: the beginning of each message.
        error: why one trunk cannot be grafted into the other.
    """
    return [
        UsageError(f"{what}: {each.what}", expected=each.expected, found=each.found, hint=_MAPS)
        for each in (error.problems if isinstance(error, Problems) else [error])
    ]


def ratio(moved: float, size: float) -> float:
    """Return the ratio of two norms, given their squares; infinite if only the second is 0."""
    if size == 0:
        return 0.0 if moved == 0 else math.inf
    return math.sqrt(moved / size)


def _values(checkpoint: Checkpoint, member: TrunkVariable) -> Floats:
    """Return a variable of a trunk in the common layout, float64."""
    values: Floats = np.asarray(checkpoint.read(member.own), dtype=np.float64)
    return values.T if member.transposed else values
