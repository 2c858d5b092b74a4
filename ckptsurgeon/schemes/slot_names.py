"""Slots recognised by their names: `[<scope>/]<variable>/<label>`, or `<variable>_slot_vr` of Mesh TensorFlow.

TensorFlow 1 names a slot after its optimizer, in the scope in which the optimizer is applied: `training/w/Adam`, and
`training/w/Adam_1` for the second slot. Any optimizer can be renamed by its user, so a label that is not in the tables
counts only with more evidence; see `_is_proven`. Sources: TensorFlow's `training/slot_creator.py` and `optimizer.py`,
tf.contrib's optimizers of TensorFlow 1.15, `mesh_tensorflow/optimize.py`, Tensor2Tensor's `adafactor.py`.
"""

from __future__ import annotations

from ..names import ATTRIBUTES, DIGITS, LONGEST_NUMBER, OBJECT_SLOT, is_number, is_numbered, last_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..checkpoint import Variable

    Possible = list[tuple[str, str]]  # scope and variable, for each reading of a slot's name

# What optimizers add to a variable's name: those of TensorFlow 1, of tf.contrib and Tensor2Tensor, BERT's, averages.
_LABELS = frozenset(
    (
        "Momentum", "Adagrad", "ProximalAdagrad", "AdagradDA", "Adam", "RMSProp", "Adadelta", "Ftrl",
        "AdaMax", "AdamW", "MomentumW", "AddSignOptimizer", "PowerSignOptimizer", "GGT", "LARSOptimizer", "RegAdagrad",
        "Shampoo", "KFAC", "Adafactor", "adam_m", "adam_v", "ExponentialMovingAverage",
    )
)  # fmt: skip
_MESH_LABELS = ("_slot_vr", "_slot_vc", "_slot_v", "_slot_m", "_momentum_v")

# Keras optimizers in a graph of TensorFlow 1: <optimizer>/<variable>/m, and <optimizer>/iter, beta_1, ….
_KERAS_LABELS = frozenset(
    ("m", "v", "vhat", "accumulator", "linear", "rms", "momentum", "mg", "accum_grad", "accum_var")
)
KERAS_OPTIMIZERS = ("SGD", "Adagrad", "Adadelta", "Adamax", "Adam", "Nadam", "RMSprop", "Ftrl")

# Slots of other shapes: Adafactor keeps means over one dimension, Shampoo a square matrix for each dimension.
_FACTORED = frozenset(("Adafactor", "_slot_vr", "_slot_vc"))
_SQUARE = "Shampoo"

# Scalars of an optimizer that stand in its scope.
SCALARS = frozenset(
    (
        "beta1_power", "beta2_power", "learning_rate", "decay", "momentum", "iter", "iteration", "iterations", "beta_1",
        "beta_2", "rho", "epsilon", "weight_decay", "loss_scale", "current_loss_scale", "good_steps",
    )
)  # fmt: skip

# A moving average without bias keeps these below itself; pruning keeps masks. They belong to the model.
_AUXILIARY = frozenset(("biased", "local_step", "mask"))

_DEEPEST = 16  # path components of a scope, or of what a partition leaves in a slot's name
_COUNTERS = "_0123456789"  # which end the labels of further slots: Adam_1


class NamedSlots:
    """The slots that names show.

    Args:
        variables: all variables of a checkpoint.

    Attributes:
        owners: slot -> its variable.
        candidates: variables that look like slots, without enough evidence -> variable to which they would belong;
            empty if that variable is missing.
        scopes: the scopes of optimizers, except the empty one.
    """

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        self._variables = variables
        self.owners: dict[str, str] = {}
        self.candidates: dict[str, str] = {}
        self.scopes: set[str] = set()
        proven: dict[str, dict[str, Possible]] = {}
        unknown: dict[str, dict[str, Possible]] = {}
        for label, found in self._by_label().items():
            if label in _LABELS or label in _MESH_LABELS:
                self._claim(found)
                continue
            in_scope = {name: [each for each in possible if self._is_scope(each[0], label)]
                        for name, possible in found.items()}  # fmt: skip
            proven[label] = {name: possible for name, possible in in_scope.items() if possible}
            self._claim(proven[label])
            if label not in _AUXILIARY and len(proven[label]) < len(found):
                unknown[label] = {name: possible for name, possible in found.items() if not in_scope[name]}
        if unknown:
            self._judge(unknown, proven)
        for slot in list(self.owners):
            self._follow(slot)

    def _by_label(self) -> dict[str, dict[str, Possible]]:
        """Return the names that can be read as slots' names: label -> name -> its readings."""
        variables = self._variables
        found: dict[str, dict[str, Possible]] = {}
        lasts = {name[name.rfind("/") + 1 :] for name in variables}
        for name, variable in variables.items():
            if OBJECT_SLOT in name:
                self._add_object_slot(name)
                continue
            base, slash, last = name.rpartition("/")
            label = last
            if name.endswith(_MESH_LABELS):
                label = next(each for each in _MESH_LABELS if name.endswith(each))
                base = name[: -len(label)]
            elif not slash:
                continue
            elif label not in _LABELS:
                stem, _, count = last.rpartition("_")
                if stem in _LABELS and is_number(count):
                    label = stem
            is_known = label in _LABELS or label in _MESH_LABELS
            end = base[base.rfind("/") + 1 :]  # the last component of the variable's name, or of what a partition left
            if not is_known and end not in lasts and not _is_partition(end):
                continue
            possible = [each for each in self._readings(base) if _fits(label, variable, variables[each[1]])]
            if possible:
                label = label if is_known else last.rstrip(_COUNTERS)
                found.setdefault(label, {})[name] = possible
            elif is_known and variable.shape and label != "ExponentialMovingAverage":  # which tensors have too
                self.candidates[name] = ""
        return found

    def _add_object_slot(self, name: str) -> None:
        """Add a slot that names its variable: `<variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>`."""
        owner = name[: name.index(OBJECT_SLOT)]
        for each in (owner, owner + name[name.rindex(ATTRIBUTES) :]) if ATTRIBUTES in name else (owner,):
            if each in self._variables and self._variables[each].shape == self._variables[name].shape:
                self.owners[name] = each
                return

    def _readings(self, base: str) -> Possible:
        """Return the scopes and variables that a slot's name without its label can mean."""
        found: Possible = [("", base)] if base in self._variables else []
        start = end = 0
        for _ in range(_DEEPEST):
            start = base.find("/", start) + 1
            if not start:
                break
            if base[start:] in self._variables:
                found.append((base[: start - 1], base[start:]))
        end = len(base)
        for _ in range(_DEEPEST):
            end = base.rfind("/", 0, end)
            if end < 0:
                break
            if base[:end] in self._variables and _is_cut(base[:end], base[end + 1 :]):
                found.append(("", base[:end]))
        return found

    def _claim(self, found: dict[str, Possible]) -> None:
        """Add slots; of several readings, that with the scope which explains most of these names counts."""
        counts: dict[str, int] = {}
        for possible in found.values():
            for scope, _ in possible:
                counts[scope] = counts.get(scope, 0) + 1
        for name, possible in found.items():
            scope, owner = possible[0]
            if len(possible) > 1:
                scope, owner = min(possible, key=lambda each: (-counts[each[0]], not self._has_powers(each[0]), *each))
            self.owners[name] = owner
            if scope:
                self.scopes.add(scope)

    def _has_powers(self, scope: str) -> bool:
        return (f"{scope}/beta1_power" if scope else "beta1_power") in self._variables

    def _is_scope(self, scope: str, label: str) -> bool:
        """Return whether an optimizer's scalars stand in a scope, or the scope has a Keras optimizer's name."""
        if not scope:
            return False
        if label in _KERAS_LABELS and is_numbered(scope[scope.rfind("/") + 1 :], KERAS_OPTIMIZERS):
            return True
        scalars = (self._variables.get(f"{scope}/{each}") for each in SCALARS)
        return any(each is not None and not each.shape for each in scalars)

    def _judge(self, unknown: dict[str, dict[str, Possible]], proven: dict[str, dict[str, Possible]]) -> None:
        """Decide about names with labels that no table has; `proven` are those whose scope is an optimizer's."""
        counts: dict[str, int] = {}
        for name in self._variables:
            label = name[name.rfind("/") + 1 :].rstrip(_COUNTERS)
            if label in unknown:
                counts[label] = counts.get(label, 0) + 1
        for label, found in unknown.items():
            if len(found) + len(proven[label]) < counts[label]:
                continue  # weights have this name too
            owners = [possible[0][1] for possible in found.values()]
            if proven[label] or _is_proven(owners, self._variables):
                self._claim(found)
            else:
                named = ((name, possible[0][1]) for name, possible in found.items())
                self.candidates.update(each for each in named if self._variables[each[0]].shape)

    def _follow(self, slot: str) -> None:
        """Give what belongs to a slot to the slot's variable: an average of a slot, an average's bias."""
        while self.owners[slot] in self.owners:
            self.owners[slot] = self.owners[self.owners[slot]]
        for each in ("biased", "local_step"):
            if f"{slot}/{each}" in self._variables:
                self.owners[f"{slot}/{each}"] = self.owners[slot]


def _is_proven(owners: list[str], variables: Mapping[str, Variable]) -> bool:
    """Return whether a label below these variables is that of an optimizer.

    An optimizer keeps slots for all that it trains: kernels and biases. What a model keeps of its own below a variable,
    such as a mask or an estimate of a norm, it keeps for one kind of variables.
    """
    ends = {owner[owner.rfind("/") + 1 :] for owner in owners}
    return len(ends) > 1 and len({len(variables[owner].shape) for owner in owners} - {0}) > 1


def _fits(label: str, slot: Variable, owner: Variable) -> bool:
    """Return whether a slot of this label can have its shape beside its variable's."""
    if slot is owner:
        return False
    if slot.shape == owner.shape:
        return True
    if label in _FACTORED and len(slot.shape) == len(owner.shape) - 1:
        return any(owner.shape[:at] + owner.shape[at + 1 :] == slot.shape for at in range(len(owner.shape)))
    return label == _SQUARE and slot.shape in {(size, size) for size in owner.shape}


def _is_partition(end: str) -> bool:
    """Return whether a component is the end of `part_0`, `part_1`, …."""
    stem = end.rstrip(DIGITS)
    return "part_".endswith(stem) and 0 < len(end) - len(stem) <= LONGEST_NUMBER


def _is_cut(variable: str, tail: str) -> bool:
    """Return whether a slot's name has this tail between its variable and its label because of a partition.

    TensorFlow finds a slot's label by cutting `<scope>/<variable>/part_0/Adam` where `<variable>/part_0/` would end
    without the scope. If the scope has n characters, so the last n + 1 of `<scope>/<variable>/part_0/` stay in the
    name: `w/t_0/Adam`, `w/part_0/Adam`, `w//part_0/Adam`, `w/ing/w/part_0/Adam`.
    """
    whole = f"{variable}/part_{last_number(tail) or 0}"
    return whole.endswith(tail) or tail.endswith(f"/{whole}")


def renamed_slot(slot: str, owner: str, new: str) -> str:
    """Return the name that a slot has after its variable was renamed; the same name if it does not contain the owner's.

    Args:
        slot: name of the slot.
        owner: name of its variable.
        new: the variable's new name.
    """
    base, _, last = slot.rpartition("/")
    label = next((each for each in _MESH_LABELS if slot.endswith(each)), f"/{last}")
    stem = slot[: -len(label)]
    if f"/{stem}".endswith(f"/{owner}"):
        return stem[: len(stem) - len(owner)] + new + label
    if not slot.startswith(owner):
        return slot
    tail = base[len(owner) + 1 :]
    if OBJECT_SLOT not in slot and tail and _is_cut(owner, tail):
        part = f"part_{last_number(tail) or 0}"
        whole, own = f"{new}/{part}", f"{owner}/{part}"
        tail = whole[-len(tail) :] if len(tail) <= min(len(whole), len(own)) else tail
        return f"{new}/{tail}/{last}"
    return new + slot[len(owner) :]
