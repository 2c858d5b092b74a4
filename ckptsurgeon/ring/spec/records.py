"""The settings of a run as immutable records: what ring.toml says, checked and with defaults filled in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..learning_rate import Rate
from ..schedule import TRUNK, Part, Schedule
from . import toml_keys

# The placeholders in the arguments of `command` and of `predict`: names in braces, replaced whenever it is started.
PLACEHOLDERS = frozenset(("checkpoint", "output", "batch", "data", "metrics", "seed", "step", "learning_rate"))
PREDICT_PLACEHOLDERS = frozenset(("checkpoint", "data", "output"))


@dataclass(frozen=True)
class Stop:
    """When a run ends.

    Attributes:
        tolerance: the change of its weights, from one block of rounds to the next, at which a model has
            converged; the run ends when all have. None: weights do not end it.
        window: the number of rounds in a block.
        rounds: the rounds after which the run ends in any case; None: there is no limit.
        trunk_tolerance: the change of the trunk at which the run ends; None: the trunk does not end it.
        patience: the blocks of rounds without a smaller held-out loss after which the run ends; None for no limit.
    """

    tolerance: float | None = 1e-2
    window: int = 20
    rounds: int | None = 5000
    trunk_tolerance: float | None = None
    patience: int | None = None

    def until(self, rounds: int | None = None, tolerance: float | None = None) -> Stop:
        """Return limits with only these, whichever comes first; self if neither is given."""
        if rounds is None and tolerance is None:
            return self
        return Stop(tolerance, self.window, rounds)


@dataclass(frozen=True)
class Data:
    """The rows that all models train on.

    Attributes:
        file: csv, parquet, npz, npy or a folder of images; a relative path starts at ring.toml's folder.
        target: the column to predict (see `data.read`); None for images.
        batch_size: rows of a mini-batch.
        holdout: the share of the rows that is kept for `ring evaluate`.
        classes: of a Python source, the number of classes or their names; None if its y holds values.
        held_out: of a Python source, the function of the same file that returns the rows for `ring evaluate`.
    """

    file: str
    target: str | None = None
    batch_size: int = 32
    holdout: float = 0.2
    classes: int | tuple[str, ...] | None = None
    held_out: str | None = None

    @property
    def source(self) -> tuple[str, str] | None:
        """The Python file and the function in it that returns the batches; None if `file` holds rows."""
        found = toml_keys.SOURCE.fullmatch(self.file)
        return None if found is None else (found[1], found[2])

    @property
    def holds_out(self) -> bool:
        """Whether there are rows that no model trains on."""
        return bool(self.holdout) if self.source is None else self.held_out is not None


@dataclass(frozen=True)
class Model:
    """One model of the ring. Exactly one of `hidden_units`, `trainer`, `command` and `worker` is given.

    Attributes:
        name: its name, and that of its folder.
        hidden_units: the hidden layers of a net of the built-in trainer.
        optimizer: the built-in trainer's optimizer.
        learning_rate: a number or a schedule; None: the trainer's own.
        trainer: `module:function` or `file.py:function`; the function builds a Keras or PyTorch model.
        command: a program that is started once a step, with placeholders in its arguments.
        worker: a program that is kept running.
        init: a checkpoint with the first weights; without it the trainer is asked for them.
        format: how its checkpoints are stored, one of `toml_keys.SUFFIXES`.
        scheme: how it names its layers, if that cannot be detected.
        map: `NAME=COMMON NAME` each, as in `graft --map`: the names of its variables in the models without a
            map; `COMMON NAME.T` for a matrix that it holds transposed.
        predict: a program that writes the model's predictions; without it, only networks of the built-in
            trainer's kind have a vote.
        device: where its trainer runs, if not where the run's `device` says.
        patience: the blocks of rounds without a smaller held-out loss of its own after which the model rests; None: it
            never does.
        memory: megabytes that its trainer may use; None for no limit.
        timeout: seconds that one step may take, including the start of its trainer.
        tries: how often a step is tried before the run stops.
    """

    name: str
    hidden_units: tuple[int, ...] | None = None
    optimizer: str | None = None
    learning_rate: Rate | None = None
    trainer: str | None = None
    command: tuple[str, ...] | None = None
    worker: tuple[str, ...] | None = None
    init: str | None = None
    format: str = "bundle"
    scheme: str | None = None
    map: tuple[str, ...] = ()
    predict: tuple[str, ...] | None = None
    device: str | None = None
    patience: int | None = None
    memory: float | None = None
    timeout: float = 600.0
    tries: int = 3

    @property
    def runs_a_program(self) -> bool:
        """Whether its trainer is a program of the user's, not one of this package's."""
        return self.command is not None or self.worker is not None


@dataclass(frozen=True)
class Stage:
    """The trunk of a number of rounds.

    Attributes:
        rounds: how many.
        layers: the trunk, a layer range.
    """

    rounds: int
    layers: str


@dataclass(frozen=True)
class Spec:
    """A checked ring.toml.

    Attributes:
        layers: the trunk, a layer range, after the stages if there are any; None if `match` selects it.
        schedule: 'ring': the trunk goes from model to model; 'average': from all to their mean, and back.
        order: the names of the models in the order of the ring, if it differs from the order of `models`.
        warmup: rounds of training before the models share the trunk.
        slots: what to do with the optimizer slots of grafted variables, as in `graft --slots`.
        seed: the seed of all random choices.
        durability: when everything is synced to disk, after each 'round' or each 'step'.
        max_to_keep: checkpoints kept of each model.
        stop: when the run ends.
        data: the rows; None if the trainers have their own.
        match: the trunk as globs, of the names in a checkpoint or of the names that variables have in their program.
        device: where the trainers run: "cpu", "gpu:N", or None for all visible GPUs in turn.
        models: two or more, in the order of ring.toml.
        stages: the trunk of the first rounds, stage by stage.
        freeze: the round from which on the trunk stays as it is; None: it never does.
    """

    layers: str | None
    models: tuple[Model, ...]
    schedule: Literal["ring", "average"] = "ring"
    order: tuple[str, ...] = ()
    warmup: int = 0
    slots: str = "keep"
    seed: int = 42
    durability: str = "round"
    max_to_keep: int = 5
    stop: Stop = Stop()
    data: Data | None = None
    stages: tuple[Stage, ...] = ()
    freeze: int | None = None
    match: tuple[str, ...] = ()
    device: str | None = None

    @property
    def selection(self) -> str:
        """What selects the trunk, in the words of ring.toml."""
        return f"layers {self.layers}" if self.layers is not None else f"match {', '.join(self.match)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, in the order of the ring."""
        return self.order or tuple(model.name for model in self.models)

    @property
    def steps(self) -> Schedule:
        """The order of the steps."""
        return Schedule.of(self.document())

    def sharing(self, trunk: str | tuple[str, ...]) -> Spec:
        """Return the spec with another trunk: a layer range, or globs."""
        if isinstance(trunk, str):
            return replace(self, layers=trunk, match=())
        return replace(self, layers=None, match=trunk)

    @property
    def trunks(self) -> tuple[Spec, ...]:
        """The spec with each trunk that it has at some time, in the order of the stages."""
        stages = dict.fromkeys(stage.layers for stage in self.stages if stage.layers != self.layers)
        return (*map(self.sharing, stages), self)

    def during(self, part: Part) -> Spec:
        """Return the spec with the models and the trunk of a part of the schedule only."""
        models = tuple(model for model in self.models if model.name in part.models)
        return replace(self.sharing(part.trunk), models=models, order=part.models)

    @property
    def suffixes(self) -> dict[str, str]:
        """The ending of the names of each model's checkpoints, and of the trunk's."""
        return {**{model.name: toml_keys.SUFFIXES[model.format] for model in self.models}, TRUNK: ""}

    def document(self) -> dict[str, Any]:
        """Return the spec, defaults filled in, as JSON can represent it, for the head of a journal."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document
