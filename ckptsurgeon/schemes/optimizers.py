"""Variables of optimizers: which slot follows which variable, and which variables are the optimizer's own."""

from __future__ import annotations

import re

from ..names import ATTRIBUTES, DIGITS, OBJECT_SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..checkpoint import Checkpoint

# The last component of a slot's name (TensorFlow 1 optimizers, BERT's own Adam, moving averages), without the _1,
# _2, … of an optimizer's further slots.
SLOTS = frozenset(
    (
        "Momentum", "Adagrad", "ProximalAdagrad", "AdagradDA", "Adam", "RMSProp", "Adadelta", "Ftrl",
        "ExponentialMovingAverage", "adam_m", "adam_v",
    )
)  # fmt: skip

# tf.estimator on Keras optimizers: training/<optimizer>/<variable>/<slot>, and training/<optimizer>/iter, beta_1, ….
_TRAINING = re.compile(
    r"training/(?:SGD|Adagrad|Adadelta|Adamax|Adam|Nadam|RMSprop|Ftrl)(?:_[0-9]+)?/(.*)", re.DOTALL | re.IGNORECASE
)
_TRAINING_SLOTS = frozenset(
    ("m", "v", "vhat", "accumulator", "linear", "rms", "momentum", "mg", "accum_grad", "accum_var")
)

# Variables of the optimizer itself, which are not slots.
_POWER = re.compile(r"beta[12]_power(_[0-9]+)?")
_OPTIMIZERS = ("optimizer/", "optimizer_weights/")
WEIGHTS = "_trainable_variables"  # an optimizer's folder that holds the model's weights
_NEVER = ("global_step", "save_counter")

_DEEPEST_TAIL = 16  # path components that a partition may leave in a slot's name
_LAST_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def slots(checkpoint: Checkpoint) -> dict[str, str]:
    """The slots of a checkpoint: slot's name -> name of its variable.

    A slot is recognised by its name and its variable's shape, or recorded by the container.
    """
    variables = checkpoint.variables
    found: dict[str, str] = {}
    for name, variable in variables.items():
        for candidate in _possible_owners(name):
            owner = variables.get(candidate)
            if owner is not None and owner.shape == variable.shape:
                found[name] = candidate
                break
    recorded = {
        slot: owner for slot, owner in checkpoint.slot_owners().items() if slot in variables and owner in variables
    }
    return found | recorded


def _possible_owners(name: str) -> Iterable[str]:
    """The names of variables whose slot a name could be, the likeliest first."""
    base, slash, suffix = name.rpartition("/")
    if OBJECT_SLOT in name:
        variable = name[: name.index(OBJECT_SLOT)]
        return (variable, variable + name[name.rindex(ATTRIBUTES) :]) if ATTRIBUTES in name else (variable,)
    if not slash:
        return ()
    if suffix in _TRAINING_SLOTS:
        training = _TRAINING.fullmatch(base)
        return (training[1],) if training else ()
    stem, _, count = suffix.rpartition("_")
    if suffix in SLOTS or (stem in SLOTS and DIGITS.fullmatch(count)):
        return _through_partition(base)
    return ()


def _through_partition(base: str) -> list[str]:
    """Candidate variable names for a slot: its name without the last component, and shorter forms of it.

    For the slot of a partition that is made inside a scope of n characters, TensorFlow cuts `<variable>/part_0/` not
    where the variable's name ends but n + 1 characters from the end, and leaves the cut-off piece in the name:
    `w/t_0/Adam`, `w/part_0/Adam`, `w//part_0/Adam`.
    """
    found = [base]
    end = len(base)
    for _ in range(_DEEPEST_TAIL):
        end = base.rfind("/", 0, end)
        if end < 0:
            break
        variable, tail = base[:end], base[end + 1 :]
        count = _LAST_NUMBER.search(tail)
        if f"{variable}/part_{count[0] if count else 0}".endswith(tail):
            found.append(variable)
    return found


def optimizer_variables(checkpoint: Checkpoint) -> set[str]:
    """The names of all variables of optimizers: slots, and the optimizers' own.

    These are beta1_power and beta2_power, wherever they stand, `training/<optimizer>/…` of tf.estimator, and what
    lies in the folder of an object-based or Keras optimizer, except for the model's weights that it may
    hold. A variable learning_rate outside these, global_step and save_counter stay the model's.
    """
    variables = checkpoint.variables
    owners = slots(checkpoint)
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
            (not variable.shape and _POWER.fullmatch(parts[-1]))
            or _TRAINING.fullmatch(name)
            or (name.startswith(starts) and WEIGHTS not in parts)
        ):
            found.add(name)
    return found


def slots_by_variable(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The slots of each variable that has some."""
    owners: dict[str, list[str]] = {}
    for slot, owner in slots(checkpoint).items():
        owners.setdefault(owner, []).append(slot)
    return owners
