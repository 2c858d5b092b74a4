"""ring.toml: what to train, read into checked records. Every mistake in it is reported at once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ... import schemes
from ...errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean, files
from ...surgeon.maps import Map
from ..schedule import TRUNK, Schedule
from . import toml_keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What the arguments of `command` and of `predict` may hold in braces, and is replaced at each step.
PLACEHOLDERS = frozenset(("checkpoint", "output", "batch", "data", "metrics", "seed", "step"))
PREDICT_PLACEHOLDERS = frozenset(("checkpoint", "data", "output"))

# Keys of a model that the built-in trainer has no use for.
_FOR_PROGRAMS = ("format", "scheme", "map", "predict")
_BRACES = re.compile(r"(?<!\$)\{(\w+)\}")

# These may change from one `ring run` to the next: they decide when a run ends, what is kept and how long is
# waited.
_MAY_CHANGE = re.compile(r"stop\..*|max_to_keep|durability|models\.[^.]*\.(timeout|tries|memory|predict)")


@dataclass(frozen=True)
class Stop:
    """When a run ends.

    Attributes:
        tolerance: the change of its weights, from one block of rounds to the next, at which a model has
            converged; the run ends when all have. None: weights do not end it.
        window: the rounds of a block.
        rounds: the rounds after which the run ends in any case; None: there is no limit.
        trunk_tolerance: the change of the trunk alone at which the run ends; None: it does not.
        patience: the blocks of rounds without a smaller held-out loss after which the run ends; None: none do.
    """

    tolerance: float | None = 1e-2
    window: int = 20
    rounds: int | None = 5000
    trunk_tolerance: float | None = None
    patience: int | None = None

    def until(self, rounds: int | None = None, tolerance: float | None = None) -> Stop:
        """Return when a run ends that shall go on to just these, to what comes first; as it is without either."""
        if rounds is None and tolerance is None:
            return self
        return Stop(tolerance, self.window, rounds)


@dataclass(frozen=True)
class Data:
    """The rows that all models train on.

    Attributes:
        file: csv, npz or npy; a relative path starts at ring.toml's folder.
        target: the column to predict (see `data.read`).
        batch_size: rows of a mini-batch.
        holdout: the share of the rows that is kept for `ring evaluate`.
    """

    file: str
    target: str
    batch_size: int = 32
    holdout: float = 0.2


@dataclass(frozen=True)
class Model:
    """One model of the ring. Exactly one of `hidden_units`, `command` and `worker` is given.

    Attributes:
        name: its name, and that of its folder.
        hidden_units: the hidden layers of a net of the built-in trainer.
        optimizer: the built-in trainer's optimizer.
        learning_rate: the built-in trainer's learning rate.
        command: a program that is started once a step, with placeholders in its arguments.
        worker: a program that is kept running.
        init: a checkpoint with the first weights; without it the trainer is asked for them.
        format: how its checkpoints are stored, one of `toml_keys.SUFFIXES`.
        scheme: how it names its layers, where that cannot be found out.
        map: `NAME=COMMON NAME` each, as in `graft --map`: how the models without a map call its variables;
            `COMMON NAME.T` for a matrix that it holds transposed.
        predict: a program that writes what the model says of rows; without it a model has a vote only if it is a
            net of the built-in trainer's kind.
        memory: megabytes that its trainer may hold; None for no limit.
        timeout: seconds that one step may take, with the start of its trainer.
        tries: how often a step is tried before the run stops.
    """

    name: str
    hidden_units: tuple[int, ...] | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    command: tuple[str, ...] | None = None
    worker: tuple[str, ...] | None = None
    init: str | None = None
    format: str = "bundle"
    scheme: str | None = None
    map: tuple[str, ...] = ()
    predict: tuple[str, ...] | None = None
    memory: float | None = None
    timeout: float = 600.0
    tries: int = 3


@dataclass(frozen=True)
class Spec:
    """A checked ring.toml.

    Attributes:
        layers: the trunk, a layer range.
        schedule: 'ring': the trunk goes from model to model; 'average': from all to their mean, and back.
        order: the names of the models in the order of the ring, where that is not the order of `models`.
        warmup: rounds in which every model trains for itself.
        slots: what becomes of the optimizer's slots of grafted variables, as in `graft --slots`.
        seed: all random choices derive from it.
        durability: after what everything is synced to disk, 'round' or 'step'.
        max_to_keep: checkpoints kept of each model.
        stop: when the run ends.
        data: the rows; None where the trainers bring their own.
        models: two or more, in the order of ring.toml.
    """

    layers: str
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

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, in the order of the ring."""
        return self.order or tuple(model.name for model in self.models)

    @property
    def steps(self) -> Schedule:
        """The order of the steps."""
        return Schedule(self.names, self.schedule, self.warmup)

    @property
    def suffixes(self) -> dict[str, str]:
        """The end of the names of each model's checkpoints, and of the trunk's."""
        return {**{model.name: toml_keys.SUFFIXES[model.format] for model in self.models}, TRUNK: ""}

    def document(self) -> dict[str, Any]:
        """Return the spec, defaults filled in, as JSON can hold it: the head of a journal."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document


def load(path: str) -> Spec:
    """Read a ring.toml.

    Raises:
        Problems: more than one mistake; a single one is raised as it is.
        UsageError: a mistake; the key is named.
    """
    with files(path):
        with open(path, "rb") as file:
            content = file.read()
        try:
            table = tomllib.loads(content.decode())
        except UnicodeDecodeError as error:
            raise UsageError("is not UTF-8 text") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"is not TOML: {error}") from error
        except RecursionError as error:
            raise UsageError("is not TOML: nested too deeply") from error
    return parse(table, path)


def parse(table: Mapping[str, object], path: str = "ring.toml") -> Spec:
    """Check what a TOML parser read.

    Args:
        table: the whole file.
        path: the file that mistakes are reported for.
    """
    problems: list[CkptSurgeonError] = []
    values = toml_keys.take_table(table, toml_keys.RUN, "", problems)
    stop = toml_keys.take_table(_table(values, "stop", problems), toml_keys.STOP, "stop.", problems)
    rows = (
        toml_keys.take_table(_table(values, "data", problems), toml_keys.DATA, "data.", problems)
        if "data" in values
        else None
    )
    models = [
        _model(model, number, rows is not None, problems)
        for number, model in enumerate(_tables(values, "models", problems), start=1)
    ]
    _check_names(models, problems)
    _check_schedule(values, [str(model.get("name")) for model in models], problems)
    if "patience" in stop and not (rows is not None and rows.get("holdout", Data.holdout)):
        problems.append(UsageError("stop.patience: needs held-out rows", expected="[data] with a holdout above 0"))
    if not problems:
        _check_trunk(str(values["layers"]), models, problems)
    for problem in problems:
        problem.path = problem.path or path
    check(problems)
    values.update(models=tuple(Model(**model) for model in models), stop=Stop(**stop))
    values["data"] = None if rows is None else Data(**rows)
    return Spec(**values)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys in which two documents differ, but for those that may change in the middle of a run.

    Args:
        old: a document.
        new: another one.

    Returns:
        By key what it was and is, in words.
    """
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if "models" in keys:  # they are others, or in another order: what each one holds no longer matters
        keys = [key for key in keys if not key.startswith("models.")]
    return {
        key: f"was {json.dumps(before.get(key))}, is {json.dumps(after.get(key))}"
        for key in keys
        if not _MAY_CHANGE.fullmatch(key)
    }


def _table(values: Mapping[str, Any], key: str, problems: list[CkptSurgeonError]) -> Mapping[str, object]:
    table = values.get(key, {})
    if isinstance(table, dict):
        return table
    problems.append(UsageError(f"{key}: wrong value", expected="a table", found=repr(table)[:60]))
    return {}


def _tables(values: Mapping[str, Any], key: str, problems: list[CkptSurgeonError]) -> list[Mapping[str, object]]:
    tables = values.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(UsageError(f"{key}: wrong value", expected="[[models]]", found=repr(tables)[:60]))
        return []
    if key in values and len(tables) < 2:
        problems.append(UsageError("models: a ring needs two or more", found=len(tables)))
    return tables


def _model(
    table: Mapping[str, object], number: int, has_data: bool, problems: list[CkptSurgeonError]
) -> dict[str, Any]:
    """Return the checked values of a [[models]] table, and check what depends on more than one key."""
    name = table.get("name")
    where = f"models.{name}." if isinstance(name, str) and name.isprintable() else f"models[{number}]."
    values = toml_keys.take_table(table, toml_keys.MODEL, where, problems)
    kinds = [key for key in ("hidden_units", "command", "worker") if key in values]
    if len(kinds) != 1:
        what = f"{where[:-1]}: one of hidden_units, command and worker is needed"
        problems.append(UsageError(what, found=" and ".join(kinds) or "none"))
    elif kinds == ["hidden_units"]:
        values.setdefault("optimizer", "Adagrad")
        values.setdefault("learning_rate", 0.1)
        for key in _FOR_PROGRAMS:
            if key in values:
                problems.append(UsageError(f"{where}{key}: is for other trainers than the built-in one"))
        if not has_data:
            problems.append(UsageError(f"{where}hidden_units: the built-in trainer needs [data]"))
    else:
        for key in ("optimizer", "learning_rate"):
            if key in values:
                problems.append(UsageError(f"{where}{key}: is for the built-in trainer alone"))
    if kinds == ["command"]:
        if "init" not in values:
            problems.append(UsageError(f"{where}init: missing", expected="the checkpoint that a command starts from"))
        _check_program(f"{where}command", values["command"], PLACEHOLDERS, ("checkpoint", "output"), problems)
        if not has_data and "{data}" in " ".join(values["command"] or ()):
            problems.append(UsageError(f"{where}command: {{data}} needs [data]"))
    if "predict" in values:
        needed = ("checkpoint", "data", "output")
        _check_program(f"{where}predict", values["predict"], PREDICT_PLACEHOLDERS, needed, problems)
    for text in values.get("map") or ():
        try:
            Map(text)
        except UsageError as error:
            problems.append(UsageError(f"{where}map: {error.what}", expected="NAME=COMMON NAME or NAME=COMMON NAME.T"))
    return values


def _check_program(
    where: str,
    program: Sequence[str] | None,
    placeholders: frozenset[str],
    needed: Sequence[str],
    problems: list[CkptSurgeonError],
) -> None:
    """Check the words in braces in a program's arguments."""
    arguments = " ".join(program or ())
    for unknown in sorted(set(_BRACES.findall(arguments)) - placeholders):
        hint = did_you_mean(unknown, placeholders)  # other words in braces are the program's own business
        if hint:
            problems.append(UsageError(f"{where}: no placeholder {{{unknown}}}", hint=hint))
    if program and not all(f"{{{name}}}" in arguments for name in needed):
        names = " and ".join([", ".join(f"{{{name}}}" for name in needed[:-1]), f"{{{needed[-1]}}}"])
        problems.append(UsageError(f"{where}: {names} must occur in it"))


def _check_schedule(values: Mapping[str, Any], names: Sequence[str], problems: list[CkptSurgeonError]) -> None:
    """Check what depends on the schedule; an order names each model once."""
    order = values.get("order")
    if values.get("slots") == "copy" and values.get("schedule") == "average":
        problems.append(UsageError("slots: an average has none to copy", expected='"keep" or "fill=VALUE"'))
    if order and values.get("schedule") == "average":
        problems.append(UsageError("order: is for a ring", found='schedule = "average"'))
    if order and sorted(order) != sorted(names):
        problems.append(UsageError("order: each model is named once", expected=" ".join(names), found=" ".join(order)))


def _check_names(models: list[dict[str, Any]], problems: list[CkptSurgeonError]) -> None:
    """Refuse two models that share a folder, even where only the file system ignores case."""
    names = [model["name"].lower() for model in models if model.get("name")]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(UsageError(f"models: {names.count(name)} of them are named {name!r}"))


def _check_trunk(layers: str, models: list[dict[str, Any]], problems: list[CkptSurgeonError]) -> None:
    """Compare the trunks of built-in nets before any of them exists."""
    first: tuple[str, dict[int, list[object]]] | None = None
    for model in models:
        if "hidden_units" not in model:
            continue
        units = model["hidden_units"]
        try:
            numbers = schemes.parse_layers(layers, range(len(units)))
        except CkptSurgeonError as error:
            problems.append(UsageError(f"layers: of model {model['name']}: {error}"))
            return
        trunk = {number: ["features" if number == 0 else units[number - 1], units[number]] for number in numbers}
        if first is None:
            first = model["name"], trunk
        elif trunk != first[1]:
            problems.append(
                RefusedError(
                    f"models: the trunks (layers {layers}) of {first[0]} and {model['name']} differ",
                    expected=_shapes(first[1]),
                    found=_shapes(trunk),
                )
            )


def _shapes(trunk: Mapping[int, list[object]]) -> str:
    return ", ".join(f"layer{number} [{shape[0]},{shape[1]}]" for number, shape in trunk.items())


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a document as one level of dotted keys; models are keyed by their names and keep their order."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key == "models":
            flat["models"] = [model["name"] for model in value]
            value = {model["name"]: model for model in value}
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
