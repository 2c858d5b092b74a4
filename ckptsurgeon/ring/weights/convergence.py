"""Measures whether the weights still change, by comparing means over blocks of rounds.

Mini-batch noise never disappears, so single rounds are not informative. For each model, the mean of its weights over a
block of `window` rounds is compared with the mean over the previous block:

    change = ||mean now - mean before|| / ||mean before||

Weights are the float variables with at least one axis that are not optimizer slots; `global_step` and learning rates
are not weights. The trunk is the same in all models at the end of a round, so it is read only once, in addition to the
rest of each model. The sums are kept in float64 and saved once per round, so that a run that continues after a crash
measures exactly the same changes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import data, formats, schemes
from ...errors import DamagedError
from ...publish import write_file
from ..schedule import TRUNK
from .trunk import Trunk, ratio

Vector = NDArray[np.float64]


class Weights:
    """Reads the weights of a run's models from their checkpoints, which must always hold the same variables.

    Args:
        trunk: the models' trunk.
    """

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self._rests: dict[str, list[str]] = {}

    def read(self, checkpoints: Mapping[str, str]) -> dict[str, Vector]:
        """Return the weights at the end of a round.

        Args:
            checkpoints: model -> its checkpoint; all hold the same trunk.

        Returns:
            Model -> its weights without the trunk, in the order of their names; and `TRUNK` -> the trunk's.
        """
        vectors = {}
        for name, path in checkpoints.items():
            with formats.open(path) as checkpoint:
                if name not in self._rests:
                    others = {*schemes.slots(checkpoint), *self._trunk.own(name)}
                    self._rests[name] = sorted(
                        variable.name
                        for variable in checkpoint.variables.values()
                        if variable.shape and "float" in variable.dtype and variable.name not in others
                    )
                if TRUNK not in vectors:
                    vectors[TRUNK] = self._trunk.vector(name, checkpoint)
                rest = [np.asarray(checkpoint.read(each), dtype=np.float64).ravel() for each in self._rests[name]]
                vectors[name] = np.concatenate(rest) if rest else np.zeros(0)
        return vectors


class Blocks:
    """The sums of the current block of rounds, and the means of the previous block.

    Args:
        models: the names of the models.
        window: the number of rounds in a block; block k holds the rounds k*window+1 … (k+1)*window.
    """

    def __init__(self, models: Sequence[str], window: int) -> None:
        self._models = tuple(models)
        self._parts = (*self._models, TRUNK)
        self._window = window
        self._count = 0
        self._sums: dict[str, Vector] = {}
        self._means: dict[str, Vector] = {}

    def add(self, round: int, vectors: Mapping[str, Vector]) -> dict[str, float] | None:
        """Add the weights after a round.

        Args:
            round: the number of the round.
            vectors: as `Weights.read` returns them.

        Returns:
            The change of each model and of `TRUNK` at the end of a block that follows another one; otherwise None.
            Only complete blocks are compared: a block in which measuring restarted is skipped.
        """
        self._sums = {name: self._sums.get(name, 0.0) + vectors[name] for name in self._parts}
        self._count += 1
        if round % self._window:
            return None
        change = None
        means: dict[str, Vector] = {}
        if self._count == self._window:
            means = {name: total / self._window for name, total in self._sums.items()}
            if self._means:
                change = _changes(self._models, self._means, means)
        self._count, self._sums, self._means = 0, {}, means
        return change

    def save(self, path: str, round: int, sync: bool) -> None:
        """Write everything that `add` depends on, atomically; the same state gives the same bytes."""
        arrays: dict[str, Any] = {"state": np.array([round, self._window, self._count], dtype=np.int64)}
        for number, name in enumerate(self._parts):
            for kind, vectors in (("sum", self._sums), ("mean", self._means)):
                if vectors:
                    arrays[f"{kind}{number}"] = vectors[name]
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_file(path, buffer.getvalue(), sync=sync)

    @classmethod
    def load(cls, path: str, models: Sequence[str], window: int, round: int) -> Blocks:
        """Return the state after `round`.

        If the window has changed, measuring starts from the beginning.

        Raises:
            CkptSurgeonError: the file is missing or damaged.
        """
        blocks = cls(models, window)
        if round == 0:
            return blocks
        arrays = data.load_npz(path)
        state = arrays.get("state", np.zeros(0)).tolist()
        if state[:1] != [round] or len(state) != 3:
            raise DamagedError("does not hold the means of this round", path=path, expected=round, found=state)
        if state[1] == window:
            blocks._count = state[2]
            for kind, vectors in (("sum", blocks._sums), ("mean", blocks._means)):
                for number, name in enumerate(blocks._parts):
                    if f"{kind}{number}" in arrays:
                        vectors[name] = arrays[f"{kind}{number}"]
        return blocks


def _changes(models: Sequence[str], before: Mapping[str, Vector], now: Mapping[str, Vector]) -> dict[str, float]:
    """Return how far the weights of each model and of the trunk moved, relative to their norm."""
    moved = {name: float(np.square(now[name] - before[name]).sum()) for name in before}
    size = {name: float(np.square(before[name]).sum()) for name in before}
    changes = {name: ratio(moved[name] + moved[TRUNK], size[name] + size[TRUNK]) for name in models}
    return {**changes, TRUNK: ratio(moved[TRUNK], size[TRUNK])}
