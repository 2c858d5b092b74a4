"""Learning rates that depend on the round: pure functions, so that a run that continues gets the same values.

0.1                                                              the same in all rounds
{ schedule = "constant", start = 0.1 }                           the same
{ schedule = "step", start = 0.1, every = 50, factor = 0.5 }     0.1, from round 51 on 0.05, from round 101 on 0.025
{ schedule = "cosine", start = 0.1, rounds = 200, end = 0.001 }  half a wave from 0.1 in round 1 to 0.001 in round 200
[{ rounds = 50, rate = 0.1 }, { rounds = 1, rate = 0.01 }]       0.1 for 50 rounds, then 0.01; the last one stays
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A number, or the keys of a schedule with its defaults filled in, or stages, as in ring.toml.
Rate = float | Mapping[str, Any] | Sequence[Mapping[str, Any]]

EXPECTED = (
    'a number above 0, or a schedule such as { schedule = "step", start = 0.1, every = 50, factor = 0.5 }'
    " with a factor of at most 1"
)


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError
    return float(value)


def _share(value: Any) -> float:
    if _positive(value) > 1:
        raise ValueError
    return float(value)


def _not_negative(value: Any) -> float:
    return 0.0 if type(value) in (int, float) and value == 0 else _positive(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 2**63:
        raise ValueError
    return value


# schedule -> its keys, the check of each, and its default; None: it must be given
_KEYS: Mapping[str, Mapping[str, tuple[Callable[[Any], Any], Any]]] = {
    "constant": {"start": (_positive, None)},
    "step": {"start": (_positive, None), "every": (_count, None), "factor": (_share, 0.5)},
    "cosine": {"start": (_positive, None), "rounds": (_count, None), "end": (_not_negative, 0.0)},
}


def take(value: Any) -> Rate:
    """Return a learning rate of ring.toml with its defaults filled in; ValueError for anything else."""
    if isinstance(value, list):
        if not value or any(not isinstance(stage, dict) or stage.keys() != {"rounds", "rate"} for stage in value):
            raise ValueError
        return tuple({"rounds": _count(stage["rounds"]), "rate": _positive(stage["rate"])} for stage in value)
    if not isinstance(value, dict):
        return _positive(value)
    name = value.get("schedule")
    keys = _KEYS.get(name) if isinstance(name, str) else None
    if keys is None or not value.keys() <= {"schedule", *keys}:
        raise ValueError
    return {"schedule": name, **{key: check(value.get(key, default)) for key, (check, default) in keys.items()}}


def at(rate: Rate, round: int) -> float:
    """Return the learning rate of a round, counted from 1."""
    if isinstance(rate, int | float):
        return float(rate)
    done = round - 1
    if not isinstance(rate, Mapping):
        for stage in rate:
            if done < stage["rounds"]:
                break
            done -= stage["rounds"]
        return float(stage["rate"])
    start = float(rate["start"])
    if rate["schedule"] == "step":
        return start * math.pow(float(rate["factor"]), done // int(rate["every"]))
    if rate["schedule"] == "cosine":
        end, part = float(rate["end"]), min(done / max(1, rate["rounds"] - 1), 1.0)
        return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
    return start


def is_plain(rate: Rate | None) -> bool:
    """Return whether it is a number, or not given, so that it is the same in all rounds."""
    return rate is None or isinstance(rate, int | float)
