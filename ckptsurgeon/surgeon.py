"""The operations: each looks at metadata alone, reports all that is wrong at once, and returns a Plan."""

from __future__ import annotations

from . import schemes
from .checkpoint import Variable
from .errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean
from .names import natural_key
from .naming import Pairs, Rename
from .plan import Change, Copy, Fill, Plan, Values
from .selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint


GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # of an object-based checkpoint: which object holds which variable


class Options:
    """What a graft may do besides.

    Args:
        recipient_scheme: how the recipient names its layers, where not as the donor does.
        add: add variables that the recipient lacks.
    """

    def __init__(self, recipient_scheme: str | None = None, add: bool = False) -> None:
        self.recipient_scheme = recipient_scheme
        self.add = add


class SlotPolicy:
    """What becomes of the slots of grafted variables.

    Args:
        text: `keep` (the recipient's stay), `copy` (the donor's come along), `drop`, or `fill=NUMBER`.

    Raises:
        UsageError: none of these.
    """

    def __init__(self, text: str) -> None:
        self.action, _, number = text.partition("=")
        self.number = 0.0
        try:
            self.number = float(number) if self.action == "fill" else 0.0
        except ValueError:
            self.action = ""
        if self.action not in ("keep", "copy", "drop", "fill") or (number and self.action != "fill"):
            raise UsageError(f"--slots {text} is no policy", expected="keep, copy, drop or fill=NUMBER")


def graft(
    donor: Checkpoint, recipient: Checkpoint, selection: Selection, slots: str = "keep", options: Options | None = None
) -> Plan:
    """Rewrite the selected variables of the recipient with those of the donor.

    Args:
        donor: open; its names and layer numbers are what the selection means.
        recipient: open.
        selection: which variables; slots that it matches follow `slots` alone.
        slots: see `SlotPolicy`.
        options: what else is allowed.

    Raises:
        UsageError: the selection selects nothing, or slots only.
        RefusedError: a variable is missing in the recipient, or is of another dtype or shape there.
        Problems: several of these.
    """
    policy = SlotPolicy(slots)
    options = options or Options()
    donor_slots = schemes.slots(donor)
    selected = selection.variables(donor)
    chosen = [variable for variable in selected if variable.name not in donor_slots and variable.name != GRAPH]
    if not chosen:
        if selected[0].name == GRAPH:
            raise UsageError(f"{GRAPH} describes its own checkpoint and cannot be grafted", path=donor.path)
        raise UsageError(
            "the selection matches slots only", path=donor.path, hint="select their variables, and --slots copy"
        )
    pairs = Pairs(donor, recipient, selection, options.recipient_scheme)
    problems: list[CkptSurgeonError] = []
    changes: list[Change] = []
    for variable in chosen:
        changes += _graft_one(donor, recipient, variable, pairs, options, problems)
    check(problems)
    if policy.action == "copy":
        theirs = schemes.slots_by_variable(donor)
        for name in [change.name for change in changes if change.action == "added"]:
            for slot in theirs.get(name, []):
                changes += _added(recipient, donor, donor[slot], problems)
    if policy.action != "keep":
        grafted = [change for change in changes if change.action == "grafted"]
        changes += _graft_slots(donor, recipient, grafted, policy, problems)
        check(problems)
    return _plan(recipient, changes)


def _plan(checkpoint: Checkpoint, changes: list[Change]) -> Plan:
    """The plan of these changes and of what follows from them."""
    changes += checkpoint.consequences(changes)
    changes.sort(key=lambda change: natural_key(change.name))
    return Plan(checkpoint, changes)


def _graft_one(
    donor: Checkpoint,
    recipient: Checkpoint,
    variable: Variable,
    pairs: Pairs,
    options: Options,
    problems: list[CkptSurgeonError],
) -> list[Change]:
    """The change that grafts one variable, or none and a problem."""
    try:
        target = pairs.target(variable)
    except RefusedError as error:
        problems.append(error)
        return []
    if target is None:
        if options.add:
            return _added(recipient, donor, variable, problems)
        problems.append(
            RefusedError(
                f"no variable {variable.name}, which the donor has",
                path=recipient.path,
                hint=did_you_mean(variable.name, recipient.variables) or "--add adds it, --exclude leaves it out",
            )
        )
        return []
    return _copied(donor, recipient, variable, target, problems)


def _added(
    recipient: Checkpoint, donor: Checkpoint, variable: Variable, problems: list[CkptSurgeonError]
) -> list[Change]:
    """The change that adds a donor's variable under its own name, or none and a problem."""
    if recipient.find(variable.name) is not None:
        what = f"{variable.name} cannot be added: it is the name of another variable here"
        problems.append(RefusedError(what, path=recipient.path, hint="leave it out by --exclude"))
        return []
    key = recipient.key_of(variable.name)
    new = Variable(variable.name, key, variable.dtype, variable.shape, (), variable.slices)
    return [Change("added", new, Copy(donor, variable), variable.name)]


def _copied(
    donor: Checkpoint, recipient: Checkpoint, variable: Variable, target: Variable, problems: list[CkptSurgeonError]
) -> list[Change]:
    """The change that copies a donor's variable onto one of the recipient, or none and a problem."""
    whose = "the donor's" if variable.name == target.name else f"the donor's {variable.name}"
    for kind, expected, found in (
        ("dtype", variable.dtype, target.dtype),
        ("shape", list(variable.shape), list(target.shape)),
    ):
        if expected != found:
            problems.append(
                RefusedError(
                    f"{target.name} has another {kind} than {whose}",
                    path=recipient.path,
                    expected=expected,
                    found=found,
                    hint="leave it out by --exclude",
                )
            )
            return []
    if donor.byteorder != recipient.byteorder and variable.dtype == "variant":
        problems.append(
            RefusedError(
                f"{variable.name} is a variant, which cannot change its byte order",
                path=recipient.path,
                expected=recipient.byteorder,
                found=donor.byteorder,
                hint="leave it out by --exclude",
            )
        )
        return []
    return [Change("grafted", target, Copy(donor, variable), variable.name)]


def _graft_slots(
    donor: Checkpoint,
    recipient: Checkpoint,
    grafted: list[Change],
    policy: SlotPolicy,
    problems: list[CkptSurgeonError],
) -> list[Change]:
    """What the policy does to the slots of the grafted variables."""
    changes = []
    theirs, ours = schemes.slots_by_variable(donor), schemes.slots_by_variable(recipient)
    for change in grafted:
        mine = ours.get(change.variable.name, [])
        if policy.action == "drop":
            changes += [Change("dropped", recipient[slot]) for slot in mine]
        elif policy.action == "fill":
            changes += [_fill(recipient[slot], policy.number, problems) for slot in mine]
        else:
            donated = _by_kind(donor, theirs.get(change.source or "", []), change.source or "")
            wanted = _by_kind(recipient, mine, change.variable.name)
            for kind in sorted(donated.keys() | wanted.keys()):
                if kind in donated and kind in wanted:
                    pair = donor[donated[kind]], recipient[wanted[kind]]
                    changes += _copied(donor, recipient, *pair, problems)
                    continue
                where, lacking = (recipient, donated) if kind in donated else (donor, wanted)
                whose = "the donor" if kind in donated else "the recipient"
                problems.append(
                    RefusedError(f"no slot {lacking[kind]}, which {whose} has", path=where.path, hint="--slots keep")
                )
    return changes


def _by_kind(checkpoint: Checkpoint, slots: list[str], owner: str) -> dict[str, str]:
    """The slots of a variable by what tells them apart: how its name goes on, or their full names, else their order."""
    full_name = checkpoint.full_name(owner) or owner
    found: dict[str, str] = {}
    for slot in slots:
        kind = checkpoint.full_name(slot) or ""
        if schemes.OBJECT_SLOT in slot:  # dense/kernel/.OPTIMIZER_SLOT/optimizer/m
            kind = slot.rpartition("/")[2]
        elif slot.startswith(owner):  # dense/kernel/Adam_1
            kind = slot[len(owner) :]
        elif kind.endswith(f"/{full_name}"):  # m/dense/kernel
            kind = kind[: -len(full_name) - 1].rpartition("/")[2]
        else:  # adam/dense_kernel_momentum
            kind = kind.rpartition("_")[2]
        found[f"{kind} {len(found)}" if kind in found else kind] = slot
    return found


def _fill(variable: Variable, number: float, problems: list[CkptSurgeonError]) -> Change:
    import numpy as np

    from . import numeric

    try:
        numeric.cast_exactly(np.asarray(number), numeric.dtype(variable.dtype), variable.name)
    except CkptSurgeonError as error:
        problems.append(error)
    return Change("filled", variable, Fill(number))


def assign(checkpoint: Checkpoint, name: str, values: NDArray[Any]) -> Plan:
    """Set all values of one variable.

    Args:
        checkpoint: open.
        name: of the variable.
        values: of its shape and dtype, in native byte order.

    Raises:
        NotFoundError: no such variable.
        RefusedError: another shape.
    """
    variable = checkpoint[name]
    if values.shape != variable.shape:
        raise RefusedError(
            f"{name} has another shape", path=checkpoint.path, expected=list(variable.shape), found=list(values.shape)
        )
    return Plan(checkpoint, [Change("set", variable, Values(values))])


def drop(checkpoint: Checkpoint, globs: Sequence[str] = (), slots: bool = False) -> Plan:
    """Take variables away, and their slots with them.

    Args:
        checkpoint: open.
        globs: of names.
        slots: take all slots and the optimizer's own variables away.

    Raises:
        UsageError: a glob that matches nothing, or nothing would be left.
    """
    dropped: dict[str, Variable] = {}
    if globs:
        dropped.update((variable.name, variable) for variable in Selection(match=globs).variables(checkpoint))
    if slots:
        dropped.update((name, checkpoint[name]) for name in schemes.optimizer_variables(checkpoint))
    if not dropped:
        raise UsageError("nothing is there to drop", path=checkpoint.path, expected="a glob of names, or --slots")
    if GRAPH in dropped and len(dropped) > 1 and GRAPH not in globs:
        del dropped[GRAPH]  # it follows
    for slot, owner in schemes.slots(checkpoint).items():
        if owner in dropped:
            dropped[slot] = checkpoint[slot]
    if not set(checkpoint.variables) - set(dropped) - {GRAPH}:
        raise RefusedError("no variable would be left", path=checkpoint.path)
    return _plan(checkpoint, [Change("dropped", variable) for variable in dropped.values()])


def unpartition(checkpoint: Checkpoint) -> Plan:
    """Every partitioned variable becomes one whole; for a new checkpoint alone."""
    changes = []
    for variable in checkpoint.variables.values():
        if variable.slices is not None:
            whole = Variable(variable.name, variable.key, variable.dtype, variable.shape, ())
            changes.append(Change("unpartitioned", whole, Copy(checkpoint, variable)))
    return Plan(checkpoint, changes)


def rename(checkpoint: Checkpoint, renames: Sequence[Rename]) -> Plan:
    """Give variables other names, and their slots with them.

    Args:
        checkpoint: open.
        renames: each applies to the names that it matches; no name may be matched by two.

    Raises:
        UsageError: one that matches nothing.
        RefusedError: two variables would get one name.
        Problems: several of these.
    """
    problems: list[CkptSurgeonError] = []
    new: dict[str, str] = {}
    for rename in renames:
        matched = rename.apply(checkpoint)
        if not matched:
            hint = did_you_mean(rename.old, checkpoint.variables)
            problems.append(UsageError(f"nothing matches {rename.old}", path=checkpoint.path, hint=hint))
        for name, name_b in matched.items():
            if new.setdefault(name, name_b) != name_b:
                what = f"{name} would get two names: {new[name]} and {name_b}"
                problems.append(UsageError(what, path=checkpoint.path))
    for slot, owner in schemes.slots(checkpoint).items():
        if owner in new and slot not in new and slot.startswith(owner):
            new[slot] = new[owner] + slot[len(owner) :]
    changes = []
    takers: dict[bytes, str] = {}
    for name, variable in checkpoint.variables.items():
        change = Change("renamed", variable, source=name)
        if new.get(name, name) != name:
            change.name = new[name]
            change.key = (change.name + _hidden(variable, change.name)).encode("utf-8", "surrogateescape")
            changes.append(change)
        if change.key in takers:
            what = f"{takers[change.key]} and {name} would both be {change.name}"
            problems.append(RefusedError(what, path=checkpoint.path))
        if not change.key or change.key[0] == 0:
            problems.append(RefusedError(f"no variable can have the name {change.name!r}", path=checkpoint.path))
        takers[change.key] = name
    check(problems)
    return _plan(checkpoint, changes)


def _hidden(variable: Variable, name: str) -> str:
    """The end of a variable's key that its name leaves out, unless the new name spells it."""
    key = variable.key.decode("utf-8", "surrogateescape")
    end = key[len(variable.name) :] if key.startswith(variable.name) else ""
    return "" if end and name.endswith(end) else end
