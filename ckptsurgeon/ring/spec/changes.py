"""Compares ring.toml with the settings that a run began with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Keys that may change from one `ring run` to the next: they affect when the run ends, what is kept and how long to
# wait, but not the checkpoints themselves.
_MAY_CHANGE = re.compile(r"stop\..*|max_to_keep|durability|models\.[^.]*\.(timeout|tries|memory|predict)")


# Keys that may change too, but that the checkpoints depend on: a change counts from the next round on.
_SETTING = re.compile(r"layers|match|stages|freeze|models\.[^.]*\.learning_rate")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys in which two documents differ, except those that may change during a run.

    Args:
        old: the document that the run began with.
        new: the current one.

    Returns:
        By key, a description of the old and the new value.
    """
    changed = _changed(old, new)
    return {key: words for key, words in changed.items() if not _SETTING.fullmatch(key) and key != "new models"}


def settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in which two documents differ, and `new models`, described like `differences`."""
    changed = _changed(old, new)
    return {key: words for key, words in changed.items() if _SETTING.fullmatch(key) or key == "new models"}


def added(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the names of the models that only the new document has; empty if it is not the old list with some more."""
    before, after = _order(old), _order(new)
    more = [name for name in after if name not in before]
    return more if [name for name in after if name in before] == before else []


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    more = added(old, new)
    if more:  # they say all about themselves
        theirs = tuple(f"models.{name}." for name in more)
        keys = [key for key in keys if key not in ("models", "order") and not key.startswith(theirs)]
    elif "models" in keys:  # with other models, or another order, differences within models no longer matter
        keys = [key for key in keys if not key.startswith("models.")]
    changed = {
        key: f"was {json.dumps(before.get(key))}, is {json.dumps(after.get(key))}"
        for key in keys
        if not _MAY_CHANGE.fullmatch(key)
    }
    return changed | ({"new models": ", ".join(more)} if more else {})


def _order(document: Mapping[str, Any]) -> list[str]:
    """Return the names of the models in the order of the ring."""
    return list(document.get("order") or [model["name"] for model in document.get("models", [])])


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the keys that are set, as one level of dotted keys; models are keyed by their names."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key == "models":
            flat["models"] = [model["name"] for model in value]
            value = {model["name"]: model for model in value}
        if isinstance(value, dict) and key != "learning_rate":  # one value, of whatever kind
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None and value != []:  # which an earlier version may not have had as a key
            flat[prefix + key] = value
    return flat
