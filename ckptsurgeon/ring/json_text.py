"""JSON as trainers and the files of a run hold it: bounded when it is read, strict when it is written.

What a trainer says is written to the journal, which every later command reads. So nothing is let in that Python could
not write or read again: its integers convert to no float beyond 1.8e308, and to no text beyond 4,300 digits, and its
recursion ends after a thousand levels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_DEEPEST = 32  # levels of lists and objects
_MOST_DIGITS = 20  # of an integer; those of 64 bits have no more


class JSONError(ValueError):
    """The text is not JSON, or not JSON that a run can keep; the message says why: 'is not JSON', 'holds …'."""


class NotJSONError(JSONError):
    """The text is not JSON."""


def parse(content: bytes, own: bool = False) -> Any:
    """Return the value of a JSON text.

    Args:
        content: UTF-8 text.
        own: whether it stands in a file of the run. Earlier versions let more in, so integers of any length are read
            there, the long ones as floats.

    Raises:
        NotJSONError: it is not JSON.
        JSONError: it is nested too deeply, or holds an integer of more than 20 digits.
    """

    def integer(text: str) -> int | float:
        digits = len(text.lstrip("-"))
        if digits <= _MOST_DIGITS:
            return int(text)
        if own:
            return float(text)
        raise JSONError(f"holds an integer of {digits} digits, more than {_MOST_DIGITS}")

    try:
        value = json.loads(content, parse_int=integer)
    except JSONError:
        raise
    except ValueError:
        raise NotJSONError("is not JSON") from None
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(0 if own else _DEEPEST):
        level = [item for each in level for item in _items(each)]
    if not own and any(isinstance(each, dict | list) for each in level):
        raise _too_deep()
    return value


def _too_deep() -> JSONError:
    return JSONError(f"is nested more than {_DEEPEST} levels deep")


def _items(value: object) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def render(value: object) -> str:
    """Write strict JSON: NaN and infinities as strings."""
    return json.dumps(_finite(value), separators=(", ", ": "), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
