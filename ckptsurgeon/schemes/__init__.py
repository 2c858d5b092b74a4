"""Naming schemes: which names form layer K, which layers a range means, and which slots follow which variable.

    known        the table of known schemes: add a line to make another model known
    scheme       the scheme classes
    finding      which scheme a checkpoint uses
    inference    schemes guessed from names alone
    ranges       `0-2,5-` to layer numbers
    slot_names   slots recognised by their names
    optimizers   slots and other variables of optimizers
    roles        kernel and bias

The names below are imported when they are first used, so that a command loads only what it needs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .finding import find as find
    from .finding import fitting as fitting
    from .finding import inferred as inferred
    from .known import KNOWN as KNOWN
    from .optimizers import candidates as candidates
    from .optimizers import optimizer_variables as optimizer_variables
    from .optimizers import own_variables as own_variables
    from .optimizers import slots as slots
    from .optimizers import slots_by_variable as slots_by_variable
    from .ranges import parse_layers as parse_layers
    from .roles import role as role
    from .scheme import PatternScheme as PatternScheme
    from .scheme import Scheme as Scheme
    from .scheme import TableScheme as TableScheme
    from .slot_names import renamed_slot as renamed_slot

_HOMES = {
    "KNOWN": "known",
    "PatternScheme": "scheme",
    "Scheme": "scheme",
    "TableScheme": "scheme",
    "candidates": "optimizers",
    "find": "finding",
    "fitting": "finding",
    "inferred": "finding",
    "optimizer_variables": "optimizers",
    "own_variables": "optimizers",
    "parse_layers": "ranges",
    "renamed_slot": "slot_names",
    "role": "roles",
    "slots": "optimizers",
    "slots_by_variable": "optimizers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=(name,)), name)
    globals()[name] = value  # the next use finds it there
    return value
