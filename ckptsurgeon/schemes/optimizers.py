"""Variables of optimizers: which slot follows which variable, and which variables are the optimizer's own."""

from __future__ import annotations

from ..names import ATTRIBUTES, OBJECT_SLOT, is_numbered
from .slot_names import KERAS_OPTIMIZERS, SCALARS, NamedSlots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

# Keras optimizers of tf.estimator: training/<optimizer>/<variable>/<slot>, and training/<optimizer>/iter, beta_1, ….
_TRAINING = frozenset(name.lower() for name in KERAS_OPTIMIZERS)

# Variables of the optimizer itself, which are not slots.
_POWERS = ("beta1_power", "beta2_power")
_OPTIMIZERS = ("optimizer/", "optimizer_weights/")
WEIGHTS = "_trainable_variables"  # an optimizer's folder that holds the model's weights
_NEVER = ("global_step", "save_counter")


def slots(checkpoint: Checkpoint) -> dict[str, str]:
    """The slots of a checkpoint: slot's name -> name of its variable.

    A slot is recognised by its name and its variable's shape, or recorded by the container.
    """
    return _all_slots(checkpoint, NamedSlots(checkpoint.variables))


def candidates(checkpoint: Checkpoint) -> dict[str, str]:
    """Variables that look like slots, but not certainly: name -> variable to which they would belong, or empty."""
    named = NamedSlots(checkpoint.variables)
    if not named.candidates:
        return {}
    known = optimizer_variables(checkpoint)
    return {name: owner for name, owner in named.candidates.items() if name not in known}


def _all_slots(checkpoint: Checkpoint, named: NamedSlots) -> dict[str, str]:
    variables = checkpoint.variables
    recorded = {
        slot: owner for slot, owner in checkpoint.slot_owners().items() if slot in variables and owner in variables
    }
    return named.owners | recorded


def optimizer_variables(checkpoint: Checkpoint) -> set[str]:
    """The names of all variables of optimizers: slots, and the optimizers' own.

    These are beta1_power and beta2_power, wherever they stand, `training/<optimizer>/…` of tf.estimator, an
    optimizer's scalars in the scope of its slots, and what lies in the folder of an object-based or Keras optimizer,
    except for the model's weights that it may hold. A variable learning_rate outside these, global_step and
    save_counter stay the model's.
    """
    variables = checkpoint.variables
    named = NamedSlots(variables)
    owners = _all_slots(checkpoint, named)
    folders = set(_OPTIMIZERS)
    for name in variables:
        if OBJECT_SLOT in name:  # <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>
            path = name.partition(OBJECT_SLOT)[2].partition(ATTRIBUTES)[0]
            folders.add(path.rpartition("/")[0] + "/")
        else:
            path, mark, _ = name.rpartition("/_iterations")
            if mark and path:
                folders.add(path + "/")
    starts = tuple(folders - {"/"})
    found = set(owners)
    for name, variable in variables.items():
        parts = name.partition(ATTRIBUTES)[0].split("/")
        if parts[-1] in _NEVER or name in found:
            continue
        if (
            (not variable.shape and is_numbered(parts[-1], _POWERS))
            or _is_in_training(name)
            or (not variable.shape and parts[-1] in SCALARS and "/".join(parts[:-1]) in named.scopes)
            or (name.startswith(starts) and WEIGHTS not in parts)
        ):
            found.add(name)
    return found


def _is_in_training(name: str) -> bool:
    if name[:9].lower() != "training/":
        return False
    optimizer, slash, _ = name[9:].partition("/")
    return slash != "" and is_numbered(optimizer.lower(), _TRAINING)


def own_variables(checkpoint: Checkpoint) -> set[str]:
    """The names of hyper-parameters and counters: optimizers' variables that are not slots, and step counters."""
    counters = {name for name in checkpoint.variables if name.partition(ATTRIBUTES)[0].rpartition("/")[2] in _NEVER}
    return (optimizer_variables(checkpoint) - slots(checkpoint).keys()) | counters


def slots_by_variable(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The slots of each variable that has some."""
    owners: dict[str, list[str]] = {}
    for slot, owner in slots(checkpoint).items():
        owners.setdefault(owner, []).append(slot)
    return owners
