"""The lines of a journal after its head: finished steps, edits of checkpoints, and changes of ring.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from . import json_text
from .schedule import Step

# Name -> dtype and shape.
Variables = Mapping[str, tuple[str, Sequence[int]]]


@dataclass(frozen=True)
class Measured:
    """What is measured at the end of a round that ends a block of `window` rounds; each by the name of a model.

    Attributes:
        change: how much the weights moved from the mean of one block to that of the next, and `TRUNK`'s; None
            where no whole block lies before.
        held_out: the loss on held-out rows; None for a model without a vote; None if no rows are held out.
        distance: how far the trunk, as the last train step left it, is from the mean of all models' trunks.
    """

    change: Mapping[str, float] | None = None
    held_out: Mapping[str, float | None] | None = None
    distance: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Record:
    """One finished step.

    Attributes:
        step: the step of the schedule.
        source: the checkpoint that it started from (train) or took layers from (graft), relative to the run's
            folder; all of those whose trunks it averaged.
        checkpoint: the one that it wrote, relative to the run's folder.
        sha256: the fingerprint of that.
        metrics: what the trainer measured; empty for other steps.
        measured: what was measured after this step.
        seconds: how long the step took.
    """

    step: Step
    source: str | Sequence[str]
    checkpoint: str
    sha256: str
    metrics: Mapping[str, Any]
    measured: Measured
    seconds: float

    @property
    def loss(self) -> float | None:
        """The loss among the metrics, if there is one."""
        return number(self.metrics.get("loss"))

    def line(self) -> bytes:
        """Return the record as a line of the journal."""
        step = self.step
        values = {
            "step": step.number,
            "round": step.round,
            "kind": step.kind,
            "model": step.model,
            "from": self.source,
            "batch": step.batch,
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "metrics": self.metrics,
            "change": self.measured.change,
            "seconds": round(self.seconds, 6),
            "held_out": self.measured.held_out,
            "distance": self.measured.distance,
        }
        return json_text.render(values).encode() + b"\n"


@dataclass(frozen=True)
class Edit:
    """A checkpoint that somebody changed between two steps, and that the run continues from.

    Attributes:
        step: the last finished step.
        round: the number of whole rounds.
        model: whose checkpoint it is: its latest.
        checkpoint: the path, relative to the run's folder; it stays the same.
        sha256: the new fingerprint.
        replaces: the fingerprint before.
    """

    step: int
    round: int
    model: str
    checkpoint: str
    sha256: str
    replaces: str

    def line(self) -> bytes:
        """Return the edit as a line of the journal."""
        return json_text.render({"kind": "edit", **asdict(self)}).encode() + b"\n"


@dataclass(frozen=True)
class Settings:
    """A change of ring.toml between two steps.

    Attributes:
        step: the last finished step.
        round: the round from which on it counts: the first one that had not begun.
        changed: the keys, and how they changed.
        spec: ring.toml with its defaults filled in.
        initial: the fingerprint of the first checkpoint of each model that joins.
        variables: the dtype and the shape of each variable of those.
    """

    step: int
    round: int
    changed: Mapping[str, str]
    spec: Mapping[str, Any]
    initial: Mapping[str, str]
    variables: Mapping[str, Variables]

    def line(self) -> bytes:
        """Return the change as a line of the journal."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json_text.render({"kind": "settings", **values}).encode() + b"\n"


def number(value: object) -> float | None:
    """Return a number of a line of JSON, in which NaN and infinities are strings; None for anything else."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
