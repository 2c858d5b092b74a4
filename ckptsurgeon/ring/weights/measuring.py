"""Measures the models at the end of a round, and syncs the round to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ... import data, formats
from ...errors import CkptSurgeonError, UnsupportedError
from ..folder import Folder
from ..lines import Measured
from ..predicting import voting
from ..predicting.predictors import Predictors
from ..rows import held_out
from ..schedule import Schedule, Step
from ..spec.records import Spec
from .convergence import Blocks, Weights
from .trunk import Trunk

_MOST_ROWS = 10_000  # most held-out rows on which the loss is measured


class Meter:
    """Measures a run, one round after another.

    Args:
        folder: the run's folder.
        spec: the run's models and settings.
        trunk: the models' trunk.
        schedule: the order of the steps.
        table: the rows, or None.
        round: the last complete round, after which measuring continues; None: it begins.
        warn: called with a line for the user if measuring restarts from the beginning, or a model has no loss.
        asked: the trainers of the run that predict. They are asked at the end of the rounds that `asks` names.
    """

    def __init__(
        self,
        folder: Folder,
        spec: Spec,
        trunk: Trunk,
        schedule: Schedule,
        table: data.Table | None,
        round: int | None,
        warn: Callable[[str], None],
        asked: Predictors,
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._trunk = trunk
        self._schedule = schedule
        self._weights = Weights(trunk)
        self._blocks = Blocks(spec.names, spec.stop.window)
        if round is not None and round > spec.warmup:
            try:
                self._blocks = Blocks.load(folder.blocks(round), spec.names, spec.stop.window, round)
            except CkptSurgeonError as error:
                warn(f"{error}; convergence is measured from the start again")
        self._rows = _held_out(spec, table)
        self._warn = warn
        self._asked = asked
        self._without_vote: set[str] = set()

    def asks(self, step: Step) -> bool:
        """Return whether the end of a round needs trainers that predict, which must not be working then."""
        return bool(self._asked) and self._rows is not None and step.round % self._spec.stop.window == 0

    def end_round(self, step: Step, latest: Mapping[str, int]) -> Measured:
        """Measure the end of a round, and sync it to disk.

        Args:
            step: the last step of the round, which is not yet in the journal.
            latest: model -> the step that wrote its checkpoint.
        """
        checkpoints = {name: self._folder.checkpoint(name, latest[name]) for name in self._spec.names}
        change, also = None, []
        if step.round > self._spec.warmup:
            change = self._blocks.add(step.round, self._weights.read(checkpoints))
            also = [self._folder.blocks(step.round)]
            self._blocks.save(also[0], step.round, sync=False)
        formats.sync(*checkpoints.values(), also=also)
        if step.round % self._spec.stop.window:
            return Measured()
        return Measured(change, self._losses(checkpoints), self._trunk.distances(self._trained(step)))

    def _trained(self, last: Step) -> dict[str, str]:
        """Return the checkpoint that the round's train step of each model wrote."""
        schedule = self._schedule
        steps = [schedule.step(number) for number in range(schedule.first_step(last.round), last.number + 1)]
        return {s.model: self._folder.checkpoint(s.model, s.number) for s in steps if s.kind == "train"}

    def _losses(self, checkpoints: Mapping[str, str]) -> dict[str, float | None] | None:
        """Return the loss of each model that has a vote on the held-out rows."""
        if self._rows is None:
            return None
        losses: dict[str, float | None] = {}
        if self._spec.stop.patience is None:  # starting a program just for a curve takes too long
            slow = {model.name for model in self._spec.models if model.predict is not None and model.patience is None}
            losses.update(dict.fromkeys(slow))
        for name, path in checkpoints.items():
            if name in losses:
                continue
            try:
                outputs = voting.outputs(self._spec, self._folder, name, path, self._rows.X, self._asked)
                losses[name] = voting.loss(outputs, self._rows.y, self._rows.classes)
            except CkptSurgeonError as error:
                losses[name] = None
                if name not in self._without_vote:
                    self._without_vote.add(name)
                    if not isinstance(error, UnsupportedError):  # the model has no vote, which `ring evaluate` reports
                        self._warn(f"cannot compute the held-out loss of {name}: {error}")
        return losses


def _held_out(spec: Spec, table: data.Table | None) -> data.Table | None:
    """Return the held-out rows on which the loss is measured; None if there are none."""
    if spec.data is None or table is None:
        return None
    return next(held_out(spec, table, _MOST_ROWS), None)
