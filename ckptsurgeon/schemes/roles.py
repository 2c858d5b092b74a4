"""Roles of variables in their layer: kernel or bias, by the ends of their names."""

from __future__ import annotations

_ROLES = {
    **dict.fromkeys(("kernel", "_kernel", "Matrix", "weights", "w", "vars/0"), "kernel"),
    **dict.fromkeys(("bias", "Bias", "biases", "b", "vars/1"), "bias"),
}


def role(rest: str) -> str | None:
    """What a variable is to its layer, by the end of its name: "kernel", "bias", or None where the name does not say.

    Frameworks call the same thing by different names; variables whose names differ pair by it.
    """
    parts = rest.rsplit("/", 2)
    return _ROLES.get(parts[-1].rpartition(".")[2]) or _ROLES.get("/".join(parts[-2:]))
