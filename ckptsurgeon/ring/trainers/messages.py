"""The trainer's contract as text: request lines, answers, and the arguments of a command.

Every engine that runs programs sends and receives the same messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...errors import TrainerError
from .. import json_text
from ..spec.records import PLACEHOLDERS
from .log import excerpt
from .trainer import Request

_VERSION = 1
_LONGEST_METRICS = 1 << 20
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(sorted(PLACEHOLDERS))})\}}")


def request_line(request: Request) -> bytes:
    """Return the line that asks a worker for something."""
    return json.dumps({"v": _VERSION, **asdict(request)}).encode() + b"\n"


def metrics_of_answer(line: bytes, step: int) -> dict[str, Any]:
    """Return the metrics in a worker's answer.

    Args:
        line: the answer.
        step: the step that was asked for.

    Raises:
        TrainerError: the worker reported an error, or the answer is invalid.
    """
    try:
        answer = json_text.parse(line)
    except json_text.JSONError as error:
        raise TrainerError(f"sent an answer that {error}", found=excerpt(line)) from None
    if answer.get("step") != step:
        raise TrainerError("answered for another step", expected=step, found=answer.get("step"))
    if "error" in answer:
        raise TrainerError(f"said: {excerpt(str(answer['error']).encode(errors='replace'), 300)}")
    if not isinstance(answer.get("metrics"), dict):
        raise TrainerError("sent an answer without metrics", found=excerpt(line))
    return _journalled(answer["metrics"])


def command_arguments(arguments: Sequence[str], request: Request, metrics: str) -> list[str]:
    """Return a command's arguments with the placeholders replaced.

    Args:
        arguments: as in ring.toml.
        request: replaces most placeholders; None becomes an empty string.
        metrics: replaces {metrics}.
    """
    values = {key: "" if value is None else str(value) for key, value in asdict(request).items()}
    values["metrics"] = metrics
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], text) for text in arguments]


def json_object(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object that `content` holds, or None if it is anything else.

    Raises:
        TrainerError: a run cannot keep the object.
    """
    if not content.lstrip().startswith(b"{"):
        return None
    try:
        return _journalled(json_text.parse(content))
    except json_text.NotJSONError:
        return None
    except json_text.JSONError as error:
        raise TrainerError(f"sent a JSON object that {error}", found=excerpt(content)) from None


def _journalled(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics that a line of the journal can hold; a short text can be a long one there (1e15)."""
    size = len(json_text.render(metrics))
    if size > _LONGEST_METRICS:
        raise TrainerError("sent too many metrics", expected=f"{_LONGEST_METRICS} bytes of JSON at most", found=size)
    return metrics
