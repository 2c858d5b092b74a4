"""Compares ring.toml with the settings that a run began with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Keys that may change from one `ring run` to the next: they affect when the run ends, what is kept and how long to
# wait, but not the checkpoints themselves.
_MAY_CHANGE = re.compile(r"stop\..*|max_to_keep|durability|models\.[^.]*\.(timeout|tries|memory|predict)")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys in which two documents differ, except those that may change during a run.

    Args:
        old: the document that the run began with.
        new: the current one.

    Returns:
        By key, a description of the old and the new value.
    """
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if "models" in keys:  # with other models, or another order, differences within models no longer matter
        keys = [key for key in keys if not key.startswith("models.")]
    return {
        key: f"was {json.dumps(before.get(key))}, is {json.dumps(after.get(key))}"
        for key in keys
        if not _MAY_CHANGE.fullmatch(key)
    }


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
