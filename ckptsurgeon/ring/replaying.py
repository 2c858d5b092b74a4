"""Reads the lines of a journal into a history; nothing in them is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from . import json_text, learning_rate
from .history import History
from .lines import Edit, Measured, Record, Settings, Variables, number
from .schedule import Schedule
from .spec.toml_keys import SUFFIXES, model_name


def replay(line: bytes, history: History) -> bool:
    """Take a line of the journal, but not the head, into a history; return whether it ends a round.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, ArithmeticError: it is not such a line, or one that cannot
            follow `history`.
    """
    values = json_text.parse(line, own=True)
    if values["kind"] == "edit":
        history.edit(_edit(values, history))
        return False
    if values["kind"] == "settings":
        history.change_settings(_settings(values, history))
        return False
    record = _record(values, history)
    history.add(record)
    return record.step.last


def _edit(values: Mapping[str, Any], history: History) -> Edit:
    """Read an edit's line; it may take history back, like a record, but not beyond the last whole round."""
    edit = Edit(**{field.name: values[field.name] for field in fields(Edit)})
    texts = edit.model, edit.checkpoint, edit.sha256, edit.replaces
    if type(edit.step) is not int or not history.whole_step <= edit.step <= history.step:
        raise ValueError
    if edit.model not in history.models or not all(isinstance(text, str) for text in texts):
        raise ValueError
    return edit


def _settings(values: Mapping[str, Any], history: History) -> Settings:
    """Read the line of a change of ring.toml."""
    new = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    if type(new.step) is not int or not history.whole_step <= new.step <= history.step:
        raise ValueError
    if type(new.round) is not int or not history.round < new.round <= history.round + 2:
        raise ValueError
    models = check_document(new.spec).models
    if not {*history.models} <= {*models} or {*models} - {*history.models} != {*new.initial}:
        raise ValueError
    if not all(isinstance(sha256, str) for sha256 in new.initial.values()):
        raise ValueError
    return replace(new, variables=take_variables(new.variables))


def check_document(document: Mapping[str, Any]) -> Schedule:
    """Check what a run uses of a spec in a journal, and return its schedule; raises like `replay`."""
    schedule = Schedule.of(document)
    if suffixes(document).keys() != {*map(model_name, schedule.models)}:
        raise ValueError  # names become paths
    for model in document["models"]:
        rate = model.get("learning_rate")
        if rate is not None and json.loads(json.dumps(learning_rate.take(rate))) != rate:
            raise ValueError  # a key that ring.toml may leave out is missing
    return schedule


def suffixes(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the ending of the names of each model's checkpoints; raises like `replay`."""
    return {model["name"]: SUFFIXES[model.get("format", "bundle")] for model in document["models"]}


def take_variables(values: Mapping[str, Any]) -> dict[str, Variables]:
    """Return the variables of each model; raises like `replay`."""
    variables: dict[str, Variables] = {}
    for name, each in values.items():
        variables[name] = {variable: (str(dtype), tuple(map(int, shape))) for variable, (dtype, shape) in each.items()}
    return variables


def _record(values: Mapping[str, Any], history: History) -> Record:
    """Read a record's line."""
    at = values["step"]
    if type(at) is not int or not history.whole_step < at <= history.step + 1:
        raise ValueError
    step = history.schedule.step(at)
    if (values["kind"], values["model"], values["round"]) != (step.kind, step.model, step.round):
        raise ValueError
    metrics, source, texts = values["metrics"], values["from"], (values["checkpoint"], values["sha256"])
    sources = source if step.kind == "average" else [source]
    if not isinstance(metrics, dict) or not all(isinstance(text, str) for text in (*texts, *sources)):
        raise ValueError
    change, held_out, distance = (_numbers(values.get(key)) for key in ("change", "held_out", "distance"))
    models = history.schedule.part(step.round).models
    if change is not None and not (step.last and change.keys() >= set(models)):
        raise ValueError
    if None in (change or {}).values() or None in (distance or {}).values():
        raise ValueError
    measured = Measured(change, held_out, distance)  # type: ignore[arg-type]  # no None is left in them
    return Record(step, source, *texts, metrics, measured, float(values["seconds"]))


def _numbers(values: dict[str, object] | None) -> dict[str, float | None] | None:
    return None if values is None else {name: number(value) for name, value in values.items()}
