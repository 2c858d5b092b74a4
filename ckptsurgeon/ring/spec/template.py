"""Writes ring.toml for `ring init`: the keys with their values, and comments that explain them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from .records import Data, Model, Spec

_STOP = """
# When the run ends. By `tolerance`: the weights of every model, as means over `window` rounds, moved by at most this
# share of their norm from one window to the next. `trunk_tolerance` is the same of the trunk alone. `rounds` is the
# limit.
stop = {{ {limits} }}
# The alternative looks at the loss on held-out rows, and ends when it did not fall in `patience` windows:
# stop = {{ patience = 3, tolerance = 0, window = 20, rounds = 5000 }}
# A model with `patience` under [[models]] stops training by its own held-out loss, and the run ends when all have.
"""


def render(spec: Spec) -> str:
    """Return a ring.toml that `loading.load` reads as `spec`."""
    stages = tuple(asdict(stage) for stage in spec.stages)
    text = _lines(
        {
            **({} if spec.layers is None else {"layers": (spec.layers, "the trunk: the layers that all models share")}),
            **({"match": (spec.match, "the trunk: the variables that all models share")} if spec.match else {}),
            **({"device": (spec.device, "of all trainers")} if spec.device else {}),
            "schedule": (spec.schedule, 'graft the trunk around a "ring", or the "average" of all trunks into each'),
            **({"stages": (stages, "the trunk of the first rounds, stage by stage")} if stages else {}),
            **({} if spec.freeze is None else {"freeze": (spec.freeze, "from this round on the trunk stays as it is")}),
            **({"order": (spec.order, "of the ring")} if spec.order else {}),
            "warmup": (spec.warmup, "rounds of training before the models share the trunk"),
            "slots": (spec.slots, 'what to do with the trunk\'s optimizer slots: "keep", "copy" or "fill=VALUE"'),
            "seed": (spec.seed, "the seed of everything random"),
            "durability": (spec.durability, 'what a power cut may cost: a "round" or a "step"'),
            "max_to_keep": (spec.max_to_keep, "checkpoints to keep of each model"),
        }
    )
    limits = {key: value for key, value in asdict(spec.stop).items() if value is not None}
    text += _STOP.format(limits=", ".join(f"{key} = {_value(value)}" for key, value in limits.items()))
    if spec.data is not None:
        text += "\n[data]\n" + _lines(
            {
                "file": (spec.data.file, ""),
                **({"target": (spec.data.target, "the column to predict")} if spec.data.target else {}),
                **_sizes(spec.data),
            }
        )
    return text + "".join(_model(model) for model in spec.models)


def _sizes(data: Data) -> Mapping[str, tuple[object, str]]:
    """Return the keys of [data] that depend on whether a Python function returns the batches."""
    if data.source is None:
        return {
            "batch_size": (data.batch_size, "rows of a mini-batch"),
            "holdout": (data.holdout, "the share of the rows that `ring evaluate` scores on"),
        }
    classes = (
        {} if data.classes is None else {"classes": (data.classes, "their number or names; without it, y holds values")}
    )
    held_out = {} if data.held_out is None else {"held_out": (data.held_out, "the function for `ring evaluate`")}
    return {**classes, **held_out}


def _lines(values: Mapping[str, tuple[object, str]]) -> str:
    """Return a line for each key, followed by its comment."""
    lines = [(f"{key} = {_value(value)}", comment) for key, (value, comment) in values.items()]
    return "".join(f"{line:24}  # {comment}\n" if comment else f"{line}\n" for line, comment in lines)


def _model(model: Model) -> str:
    """Return a model's table; a key that has its default value is left out."""
    keys = (
        "name",
        "hidden_units",
        "optimizer",
        "learning_rate",
        "trainer",
        "command",
        "worker",
        "init",
        "format",
        "scheme",
        "map",
        "predict",
        "device",
        "patience",
        "memory",
        "timeout",
        "tries",
    )
    values = {key: getattr(model, key) for key in keys}
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if value != getattr(Model, key, None)]
    return "\n".join(["", "[[models]]", *lines, ""])


def _value(value: object) -> str:
    """Return a string, a number, or a mapping or a tuple of them as TOML; JSON's strings differ only in DEL."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
