"""The keys of ring.toml and the values that each may have. Unknown keys are errors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import CkptSurgeonError, UsageError, did_you_mean
from ...formats import table
from .. import learning_rate
from ..parts import MOST_STAGES

# Models' names are folder names next to these; 'ensemble' is a line of `ring evaluate`, 'trunk' the folder of
# what an averaging step makes.
RESERVED = ("data", "events", "ensemble", "trunk")

# The formats that a model's checkpoints may have, as `formats` calls them, and the ending of the names.
FORMATS = {
    "bundle": "tf-v2",
    "v1": "tf-v1",
    "safetensors": "safetensors",
    "npz": "npz",
    "hdf5": "hdf5",
    "weights.h5": "hdf5",
    "keras": "keras-zip",
}
SUFFIXES = {name: "" if table.of(kind).is_tensorflow else f".{name}" for name, kind in FORMATS.items()} | {
    "hdf5": ".h5"
}


# The value of data.file that names a function in a Python file.
SOURCE = re.compile(r"(.+\.py):([^\W\d]\w*)")


@dataclass(frozen=True)
class TomlKey:
    """The values that a key may have: a description, and a check that returns the value or raises ValueError."""

    expected: str
    take: Callable[[Any], Any]
    required: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _integer(least: int) -> Callable[[Any], int]:
    def take(value: Any) -> int:
        if type(value) is not int or value < least or value >= 2**63:
            raise ValueError
        return value

    return take


def _number(accept: Callable[[float], bool]) -> Callable[[Any], float]:
    def take(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not accept(value):
            raise ValueError
        return float(value)

    return take


def _list_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def take(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError
        return tuple(map(one, value))

    return take


def _function(value: Any) -> str:
    place, _, name = _text(value).rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError
    return str(value)


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"cpu|gpu:[0-9]{1,3}", value):
        raise ValueError
    return value


def _choice(*choices: str) -> Callable[[Any], str]:
    def take(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return take


def _slots(value: Any) -> str:
    if value not in ("keep", "copy"):
        if not isinstance(value, str) or not value.startswith("fill="):
            raise ValueError
        if not math.isfinite(float(value[5:])):
            raise ValueError
    return str(value)


def model_name(value: Any) -> str:
    """Return a name that can be a folder next to the run's own files; ValueError for any other."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value):
        raise ValueError
    if value.lower() in RESERVED:
        raise ValueError
    return value


def _stages(value: Any) -> tuple[tuple[int, str], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError
    if len(value) > MOST_STAGES:
        raise ValueError
    if any(not isinstance(stage, dict) or stage.keys() != {"rounds", "layers"} for stage in value):
        raise ValueError
    return tuple((_integer(1)(stage["rounds"]), _text(stage["layers"])) for stage in value)


def _classes(value: Any) -> Any:
    if not isinstance(value, list):
        return _integer(2)(value)
    names = _list_of(_text)(value)
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError
    return names


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError
    return value


def _any(value: Any) -> Any:
    return value


_DEVICE = TomlKey('"cpu" or "gpu:N"', _device)
_LEARNING_RATE = TomlKey(learning_rate.EXPECTED, learning_rate.take)
_PROGRAM = TomlKey('a program and its arguments, such as ["python", "train.py"]', _list_of(_text))
RUN = {
    "layers": TomlKey('a layer range such as "0-1"', _text),
    "match": TomlKey('a list of globs such as ["conv_*/**"]', _list_of(_text)),
    "stages": TomlKey('a list such as [{ rounds = 50, layers = "0" }] of at most 1000', _stages),
    "freeze": TomlKey("an integer of 1 or more", _integer(1)),
    "learning_rate": _LEARNING_RATE,
    "device": _DEVICE,
    "slots": TomlKey('"keep", "copy" or "fill=VALUE"', _slots),
    "seed": TomlKey("an integer of 0 or more", _integer(0)),
    "schedule": TomlKey('"ring" or "average"', _choice("ring", "average")),
    "order": TomlKey("the names of all models, each once", _list_of(_text)),
    "warmup": TomlKey("an integer of 0 or more", _integer(0)),
    "durability": TomlKey('"round" or "step"', _choice("round", "step")),
    "max_to_keep": TomlKey("an integer of 1 or more", _integer(1)),
    "stop": TomlKey("a table", _any),
    "data": TomlKey("a table, or file.py:function", _any),
    "models": TomlKey("two or more [[models]]", _any, required=True),
}
STOP = {
    "tolerance": TomlKey("a number of 0 or more", _number(lambda value: value >= 0)),
    "trunk_tolerance": TomlKey("a number of 0 or more", _number(lambda value: value >= 0)),
    "patience": TomlKey("an integer of 1 or more", _integer(1)),
    "window": TomlKey("an integer of 1 or more", _integer(1)),
    "rounds": TomlKey("an integer of 1 or more", _integer(1)),
}
DATA = {
    "file": TomlKey(
        "the path of a csv, parquet, npz or npy file, of a folder of images, or file.py:function", _text, required=True
    ),
    "target": TomlKey("the name of a column", _text),
    "batch_size": TomlKey("an integer of 1 or more", _integer(1)),
    "holdout": TomlKey("a number of at least 0 and below 1", _number(lambda value: 0 <= value < 1)),
    "classes": TomlKey("the number of classes, or a list of their names", _classes),
    "held_out": TomlKey("the name of a function in the same file", _identifier),
}
MODEL = {
    "name": TomlKey(f"letters, digits, _ and -; not one of {', '.join(RESERVED)}", model_name, required=True),
    "hidden_units": TomlKey("a list of integers such as [10, 20, 10]", _list_of(_integer(1))),
    "optimizer": TomlKey('"Adagrad", "Adam", "Momentum" or "SGD"', _choice("Adagrad", "Adam", "Momentum", "SGD")),
    "learning_rate": _LEARNING_RATE,
    "trainer": TomlKey('"file.py:function" or "module:function"', _function),
    "command": _PROGRAM,
    "worker": _PROGRAM,
    "init": TomlKey("the path of a checkpoint", _text),
    "format": TomlKey(" or ".join(f'"{name}"' for name in SUFFIXES), _choice(*SUFFIXES)),
    "scheme": TomlKey('a scheme such as "layers.{K}.**"', _text),
    "map": TomlKey('a list of "NAME=COMMON NAME", as in graft --map', _list_of(_text)),
    "predict": TomlKey("a program and its arguments, with {checkpoint}, {data} and {output}", _list_of(_text)),
    "device": _DEVICE,
    "patience": TomlKey("an integer of 1 or more", _integer(1)),
    "memory": TomlKey("a number of megabytes above 0", _number(lambda value: value > 0)),
    "timeout": TomlKey("a number of seconds above 0", _number(lambda value: value > 0)),
    "tries": TomlKey("an integer of 1 or more", _integer(1)),
}


def shown(value: object) -> str:
    """Return a value of any kind as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # integers of more than 4,300 digits, which TOML allows in hexadecimal, have no repr
        return "a very long number"
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 60 else text[:60] + "…"


def take_table(
    table: Mapping[str, object], keys: Mapping[str, TomlKey], prefix: str, problems: list[CkptSurgeonError]
) -> dict[str, Any]:
    """Return the checked values of one table; problems with it are added to `problems`."""
    values = {}
    for name, value in table.items():
        key = keys.get(name)
        if key is None:
            hint = did_you_mean(name, keys) or f"the keys are {', '.join(keys)}"
            problems.append(UsageError(f"{prefix}{name}: unknown key", hint=hint))
            continue
        try:
            values[name] = key.take(value)
        except (ValueError, OverflowError):
            problems.append(UsageError(f"{prefix}{name}: wrong value", expected=key.expected, found=shown(value)))
            values[name] = None
    for name, key in keys.items():
        if key.required and name not in values:
            problems.append(UsageError(f"{prefix}{name}: missing", expected=key.expected))
    return values
