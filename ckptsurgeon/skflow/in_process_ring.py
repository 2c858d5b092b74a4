"""A ring in one process, with estimators instead of checkpoints.

It does for members and their networks what `ring.driver` does for trainers and checkpoints: it gets the next step from
`ring.schedule` and performs it. Mini-batches, seeds of initial weights and the measure of convergence are the ring's,
so the same settings give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import schemes
from ..data import Batches
from ..errors import CkptSurgeonError
from ..ring.schedule import TRUNK, Done, Limits, Schedule, Step, next_step, step_seed
from ..ring.weights.convergence import Blocks
from ..schemes.skflow_names import bias, matrix
from ..surgeon.slots import SlotPolicy
from .checkpoints.architecture import Architecture, Values
from .dnn import _TensorFlowDNN
from .errors import EstimatorError
from .validation import DIVERGED


def model_names(count: int) -> tuple[str, ...]:
    """Return the names that `ring init` gives to this number of models: a, b, c and so on."""
    return tuple(chr(ord("a") + number) if number < 26 else f"m{number + 1}" for number in range(count))


class InProcessRing:
    """A ring whose models are estimators.

    Args:
        members: unfitted estimators; they get networks with initial weights.
        features: columns of X.
        target: the shape of one row's target.
        labels: labels of the classes; None for regressors.
        layers: the trunk, a range of hidden layers.
        schedule: the order of steps; its models are the members' names.
        slots: "keep", "copy" or "fill=NUMBER".
        window: rounds per block; the change of the weights is measured at the end of each block.
        seed: determines all initial weights.

    Raises:
        EstimatorError: the members do not share such a trunk.

    Attributes:
        step: number of the last finished step.
        change: each model's change of weights when last measured in this call; None before.
        stale: always 0, because no rows are held out.
    """

    def __init__(
        self,
        members: Sequence[_TensorFlowDNN],
        features: int,
        target: tuple[int, ...],
        labels: NDArray[Any] | None,
        *,
        layers: str,
        schedule: Schedule,
        slots: str,
        window: int,
        seed: int,
    ) -> None:
        self._members = dict(zip(schedule.models, members, strict=True))
        self._schedule = schedule
        self._blocks = Blocks(schedule.models, window)
        self._policy = SlotPolicy(slots)
        self._trunks: dict[str, Values] = {}  # the trunk read last, by donor
        self.step = 0
        self.change: Mapping[str, float] | None = None
        self.stale = 0
        trunk = _trunk(layers, self._members, features)
        for name, member in self._members.items():
            _begin(member, features, target, labels, step_seed(seed, name, 0))
        self._weights = [name(layer) for layer in trunk for name in (matrix, bias)]
        self._rests = {
            name: sorted({*member._net.trainable} - {*self._weights}) for name, member in self._members.items()
        }
        self._slots = {name: _slots(member, self._weights) for name, member in self._members.items()}
        self._grafted = list(self._weights)
        if self._policy.action == "copy":
            first, *others = self._slots.values()
            if any(each != first for each in others):
                hint = 'use the same optimizer for all, or slots="keep"'
                raise EstimatorError("the members' trunks have different slots", hint=hint)
            self._grafted += first

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models."""
        return self._schedule.models

    @property
    def round(self) -> int:
        """The number of finished rounds."""
        return self._schedule.whole_rounds(self.step)

    def go(
        self,
        X: NDArray[np.float32],
        target: NDArray[Any],
        batches: Batches,
        stop: Limits,
        tell: Callable[[str], None],
    ) -> Done:
        """Perform steps until the schedule is done.

        Args:
            X: [rows, features].
            target: class numbers, [rows]; or values, [rows] or [rows, outputs].
            batches: the mini-batches of the rows.
            stop: when to stop; its rounds count from the beginning of the run.
            tell: called with a line whenever the change is measured.

        Raises:
            EstimatorError: the loss or weights are no longer finite.
        """
        self.change = None  # an earlier measurement may be of other rows
        rows, batch = np.zeros(0, np.int64), -1
        while isinstance(step := next_step(self._schedule, stop, self), Step):
            if step.kind == "train":
                if step.batch != batch:  # all models of a round train on the same batch
                    rows, batch = batches.rows(step.batch), step.batch
                self._train(step, X[rows], target[rows])
            elif step.kind == "average":
                self._trunks = {TRUNK: self._mean_trunk()}
            else:
                self._graft(step)
            self.step = step.number
            if step.last:
                self._end_round(step.round, tell)
        return step

    def _train(self, step: Step, X: NDArray[np.float32], target: NDArray[Any]) -> None:
        member = self._members[step.model]
        loss = member._net.train(X, member._encoded(target))
        self._trunks.pop(step.model, None)
        if not math.isfinite(loss):
            raise EstimatorError(f"the loss of member {step.model} is {loss} in round {step.round}", hint=DIVERGED)

    def _graft(self, step: Step) -> None:
        """Copy the donor's trunk to a model, as `graft --layers --slots` does with checkpoints."""
        net = self._members[step.model]._net
        name = str(step.donor)
        if name not in self._trunks:  # it is cached when a round's last model donates to all others
            trunk = self._members[name]._net.read(self._grafted)
            self._trunks = {name: dict(zip(self._grafted, trunk, strict=True))}
        values = dict(self._trunks[name])
        if self._policy.action == "fill":
            for name in self._slots[step.model]:
                values[name] = np.full(net.shapes[name], self._policy.number, np.float32)
        net.write(values)

    def _mean_trunk(self) -> Values:
        """Return the mean of the members' trunks, computed in float64 in member order."""
        trunks = [member._net.read(self._weights) for member in self._members.values()]
        means = [sum(map(_wide, parts[1:]), _wide(parts[0])) / len(parts) for parts in zip(*trunks, strict=True)]
        return {name: mean.astype(np.float32) for name, mean in zip(self._weights, means, strict=True)}

    def _end_round(self, round: int, tell: Callable[[str], None]) -> None:
        """Measure the change of the weights."""
        vectors = {name: _vector(member, self._rests[name]) for name, member in self._members.items()}
        vectors[TRUNK] = _vector(next(iter(self._members.values())), sorted(self._weights))
        for name, vector in vectors.items():
            if not np.isfinite(vector).all():
                raise EstimatorError(f"weights of {name} are no longer finite after round {round}", hint=DIVERGED)
        change = self._blocks.add(round, vectors) if round > self._schedule.warmup else None
        if change is not None:
            self.change = change
            tell(f"Round #{round}, change of weights: " + ", ".join(f"{n} {c:.5f}" for n, c in change.items()))


def _trunk(layers: str, members: Mapping[str, _TensorFlowDNN], features: int) -> list[int]:
    """Return the numbers of the shared layers, whose shapes must be the same in all members."""
    first: list[int] = []
    shapes: dict[str, list[list[int]]] = {}
    for name, member in members.items():
        widths = [features, *map(int, member.hidden_units)]
        try:
            first = schemes.parse_layers(layers, range(len(widths) - 1))
        except CkptSurgeonError as error:
            raise EstimatorError(f"layers {layers!r} of member {name}: {error}") from None
        shapes[name] = [widths[layer : layer + 2] for layer in first]
    one = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[one]:
            what = f"the trunks (layers {layers}) of the members {one} and {name} differ"
            raise EstimatorError(what, expected=shapes[one], found=shape)
    return first


def _begin(
    member: _TensorFlowDNN, features: int, target: tuple[int, ...], labels: NDArray[Any] | None, seed: int
) -> None:
    """Give a member its network, with the initial weights that the built-in trainer would give it."""
    member._build(features, target, labels)
    member.n_features_in_ = features
    if labels is not None:
        member.classes_ = labels
    member._net.initialize()
    outputs = target[0] if target else 1
    net = Architecture(features, tuple(map(int, member.hidden_units)), member._head, outputs, "SGD")
    first = net.initial(seed, 0.0)
    member._net.write({name: first[name] for name in net.parameters})


def _slots(member: _TensorFlowDNN, weights: Sequence[str]) -> list[str]:
    """Return the names of these variables' optimizer slots."""
    net = member._net
    return [name for weight in weights for name in net.variables if name.startswith(f"{weight}/")]


def _vector(member: _TensorFlowDNN, names: Sequence[str]) -> NDArray[np.float64]:
    """Return variables concatenated to one vector."""
    return np.concatenate([_wide(value).ravel() for value in member._net.read(names)])


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    return values.astype(np.float64)
