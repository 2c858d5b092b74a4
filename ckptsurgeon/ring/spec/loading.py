"""Reads and checks ring.toml. All mistakes in it are reported at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ... import schemes
from ...errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean, files
from ...surgeon.maps import Map
from .. import learning_rate
from . import toml_keys
from .records import PLACEHOLDERS, PREDICT_PLACEHOLDERS, Data, Model, Spec, Stage, Stop

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Keys of a model that the built-in trainer does not take, and formats that no `trainer` writes.
_FOR_PROGRAMS = ("format", "scheme", "map", "predict")
_NOT_FOR_TRAINERS = ("v1", "hdf5")
_BRACES = re.compile(r"(?<!\$)\{(\w+)\}")


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
        except ValueError as error:  # a TOMLDecodeError, or an integer of more digits than Python converts
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
    rows = _rows(values, problems) if "data" in values else None
    rate = values.pop("learning_rate", None)
    models = [
        _model(model, number, rows is not None, rate, problems)
        for number, model in enumerate(_tables(values, "models", problems), start=1)
    ]
    _check_names(models, problems)
    _check_schedule(values, [str(model.get("name")) for model in models], problems)
    if not (rows is not None and (rows.get("holdout", Data.holdout) or rows.get("held_out"))):
        patient = ["stop"] if "patience" in stop else []
        patient += [f"models.{model.get('name')}" for model in models if "patience" in model]
        what, expected = "patience: needs held-out rows", "[data] with a holdout above 0"
        problems += [UsageError(f"{where}.{what}", expected=expected) for where in patient]
    stages = tuple(Stage(*stage) for stage in values.get("stages") or ())
    trunks = dict.fromkeys((stage.layers for stage in stages), "stages")
    if values.get("layers") is not None:
        trunks[values["layers"]] = "layers"
    if stages and "match" not in values:
        values.setdefault("layers", stages[-1].layers)
    if ("layers" in values) == ("match" in values):
        what = "layers: give either layers or match" if "match" in values else "layers: missing"
        problems.append(UsageError(what, expected=toml_keys.RUN["layers"].expected))
    values.setdefault("layers", None)
    for layers, key in trunks.items():
        if not problems:
            _check_trunk(layers, key, models, problems)
    for problem in problems:
        problem.path = problem.path or path
    check(problems)
    values.update(models=tuple(Model(**model) for model in models), stop=Stop(**stop), stages=stages)
    values["data"] = None if rows is None else Data(**rows)
    return Spec(**values)


def _rows(values: Mapping[str, Any], problems: list[CkptSurgeonError]) -> dict[str, Any]:
    """Return the checked values of [data]; a string is short for its `file`."""
    given = {"file": values["data"]} if isinstance(values["data"], str) else _table(values, "data", problems)
    rows = toml_keys.take_table(given, toml_keys.DATA, "data.", problems)
    source = toml_keys.SOURCE.fullmatch(str(rows.get("file")))
    for key in ("target", "batch_size", "holdout") if source else ("classes", "held_out"):
        if key in rows:
            what = (
                "is not valid with a Python source"
                if source
                else "is only valid with a Python source, file.py:function"
            )
            problems.append(UsageError(f"data.{key}: {what}"))
    if source:
        rows["holdout"] = 0.0
    return rows


def _table(values: Mapping[str, Any], key: str, problems: list[CkptSurgeonError]) -> Mapping[str, object]:
    table = values.get(key, {})
    if isinstance(table, dict):
        return table
    problems.append(UsageError(f"{key}: wrong value", expected="a table", found=toml_keys.shown(table)))
    return {}


def _tables(values: Mapping[str, Any], key: str, problems: list[CkptSurgeonError]) -> list[Mapping[str, object]]:
    tables = values.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(UsageError(f"{key}: wrong value", expected="[[models]]", found=toml_keys.shown(tables)))
        return []
    if key in values and len(tables) < 2:
        problems.append(UsageError("models: a ring needs two or more", found=len(tables)))
    return tables


def _model(
    table: Mapping[str, object],
    number: int,
    has_data: bool,
    rate: learning_rate.Rate | None,
    problems: list[CkptSurgeonError],
) -> dict[str, Any]:
    """Return the checked values of a [[models]] table, and check what depends on more than one key.

    Args:
        table: as in ring.toml.
        number: of the model, from 1.
        has_data: whether there is a [data].
        rate: the learning rate of the models without one of their own.
        problems: takes in all mistakes.
    """
    name = table.get("name")
    where = f"models.{name}." if isinstance(name, str) and name.isprintable() else f"models[{number}]."
    values = toml_keys.take_table(table, toml_keys.MODEL, where, problems)
    if rate is not None:
        values.setdefault("learning_rate", rate)
    kinds = [key for key in ("hidden_units", "trainer", "command", "worker") if key in values]
    if len(kinds) != 1:
        what = f"{where[:-1]}: one of hidden_units, trainer, command and worker is needed"
        problems.append(UsageError(what, found=" and ".join(kinds) or "none"))
    elif kinds == ["hidden_units"]:
        values.setdefault("optimizer", "Adagrad")
        values.setdefault("learning_rate", 0.1)
        for key in _FOR_PROGRAMS:
            if key in values:
                problems.append(UsageError(f"{where}{key}: is not valid for the built-in trainer"))
        if not has_data:
            problems.append(UsageError(f"{where}hidden_units: the built-in trainer needs [data]"))
    else:
        if "optimizer" in values:
            problems.append(UsageError(f"{where}optimizer: is only valid for the built-in trainer"))
    if kinds == ["trainer"]:
        if not has_data:
            problems.append(UsageError(f"{where}trainer: needs [data]"))
        if "predict" in values:
            problems.append(UsageError(f"{where}predict: is not valid for a trainer, which predicts by itself"))
        if values.get("format") in _NOT_FOR_TRAINERS:
            expected = ", ".join(f'"{name}"' for name in toml_keys.SUFFIXES if name not in _NOT_FOR_TRAINERS)
            problems.append(
                UsageError(f"{where}format: no trainer writes it", expected=expected, found=values["format"])
            )
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
            problems.append(UsageError(f"{where}: unknown placeholder {{{unknown}}}", hint=hint))
    if program and not all(f"{{{name}}}" in arguments for name in needed):
        names = " and ".join([", ".join(f"{{{name}}}" for name in needed[:-1]), f"{{{needed[-1]}}}"])
        problems.append(UsageError(f"{where}: {names} must occur in it"))


def _check_schedule(values: Mapping[str, Any], names: Sequence[str], problems: list[CkptSurgeonError]) -> None:
    """Check what depends on the schedule; an order names each model once."""
    order = values.get("order")
    if values.get("slots") == "copy" and values.get("schedule") == "average":
        problems.append(UsageError("slots: an average has no slots to copy", expected='"keep" or "fill=VALUE"'))
    freeze, warmup = values.get("freeze"), values.get("warmup") or 0
    if freeze is not None and freeze <= warmup:
        problems.append(UsageError("freeze: the trunk is not shared yet", expected=f"more than {warmup}", found=freeze))
    if order and values.get("schedule") == "average":
        problems.append(UsageError("order: is only valid for a ring", found='schedule = "average"'))
    if order and sorted(order) != sorted(names):
        problems.append(UsageError("order: must name each model once", expected=" ".join(names), found=" ".join(order)))


def _check_names(models: list[dict[str, Any]], problems: list[CkptSurgeonError]) -> None:
    """Refuse two models that share a folder, even where only the file system ignores case."""
    names = [model["name"].lower() for model in models if model.get("name")]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            problems.append(UsageError(f"models: {names.count(name)} of them are named {name!r}"))


def _check_trunk(layers: str, key: str, models: list[dict[str, Any]], problems: list[CkptSurgeonError]) -> None:
    """Compare the trunks of built-in nets before any of them exists."""
    first: tuple[str, dict[int, list[object]]] | None = None
    for model in models:
        if "hidden_units" not in model:
            continue
        units = model["hidden_units"]
        try:
            numbers = schemes.parse_layers(layers, range(len(units)))
        except CkptSurgeonError as error:
            problems.append(UsageError(f"{key}: of model {model['name']}: {error}"))
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
