"""Roles of variables in their layer: kernel or bias, by the ends of their names."""

from __future__ import annotations

_ROLES = {
    **dict.fromkeys(("kernel", "_kernel", "Matrix", "weights", "w", "vars/0"), "kernel"),
    **dict.fromkeys(("bias", "Bias", "biases", "b", "vars/1"), "bias"),
}


def role(rest: str) -> str | None:
    """The role of a variable in its layer, by the end of its name: "kernel", "bias", or None if unknown.

    Frameworks use different names for the same thing; variables with different names pair by role.
    """
    parts = rest.rsplit("/", 2)
    return _ROLES.get(parts[-1].rpartition(".")[2]) or _ROLES.get("/".join(parts[-2:]))
