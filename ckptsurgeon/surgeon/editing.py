"""Set, rename, drop, cast, reshape, extract: each reads metadata only, reports all problems at once, returns a Plan."""

from __future__ import annotations

from .. import schemes
from ..checkpoint import GRAPH, ITEM_SIZE, Variable
from ..errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean
from ..names import natural_key, shown
from ..plan import Change, Copy, Elements, Plan, Values, plan_of
from .selection import Selection, matching
from .slots import SlotPolicy, without_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..plan import Content
    from .maps import Rename


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
            f"{name} has a different shape",
            path=checkpoint.path,
            expected=list(variable.shape),
            found=list(values.shape),
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
        RefusedError: with `slots`, a variable looks like a slot, but not certainly.
    """
    dropped: dict[str, Variable] = {}
    if globs:
        dropped.update((variable.name, variable) for variable in Selection(match=globs).variables(checkpoint))
    if slots:
        unsure = [name for name in schemes.candidates(checkpoint) if name not in dropped]
        if unsure:
            what = "cannot tell whether these variables are slots"
            hint = "drop slots by name instead, or these by name too"
            raise RefusedError(what, path=checkpoint.path, found=shown(unsure), hint=hint)
        dropped.update((name, checkpoint[name]) for name in schemes.optimizer_variables(checkpoint))
    if not dropped and slots:
        raise UsageError("there are no slots and no optimizer variables", path=checkpoint.path)
    if not dropped:
        raise UsageError("nothing to drop", path=checkpoint.path, expected="a glob of names, or --slots")
    if GRAPH in dropped and len(dropped) > 1 and GRAPH not in globs:
        del dropped[GRAPH]  # it follows
    for slot, owner in schemes.slots(checkpoint).items():
        if owner in dropped:
            dropped[slot] = checkpoint[slot]
    if not set(checkpoint.variables) - set(dropped) - {GRAPH}:
        raise RefusedError("no variable would be left", path=checkpoint.path)
    return plan_of(checkpoint, [Change("dropped", variable) for variable in dropped.values()])


def reshape(checkpoint: Checkpoint, maps: Sequence[str] = (), unpartition: bool = False, graph: bool = True) -> Plan:
    """Everything as it is, for a new checkpoint, but under other names or in another form.

    Args:
        checkpoint: open.
        maps: `A=B` each, as `maps.Map` takes them.
        unpartition: every partitioned variable becomes one whole.
        graph: keep an object graph, which means nothing in formats that have none.

    Raises:
        UsageError: a map is never used.
        RefusedError: two variables would get one name, or one the name of a matrix that is laid out differently.
        Problems: several of these.
    """
    from .maps import Map, layout_problem

    wanted = [Map(text) for text in maps]
    plan = rename(checkpoint, wanted)
    renamed = {change.variable.name: change for change in plan.changes}
    transposed = {name for each in wanted if each.transposes for name in each.apply(checkpoint)}
    transposed.update(slot for slot, owner in schemes.slots(checkpoint).items() if owner in transposed)
    problems: list[CkptSurgeonError] = []
    changes = [change for change in plan.changes if graph or change.variable.name != GRAPH]
    for variable in checkpoint.variables.values():
        change = renamed.get(variable.name)
        if variable.name in transposed:
            if len(variable.shape) != 2:
                what = f"cannot transpose {variable.name}: it is not a matrix"
                found = list(variable.shape)
                problems.append(RefusedError(what, path=checkpoint.path, expected="two dimensions", found=found))
                continue
            form = Variable(variable.name, variable.key, variable.dtype, variable.shape[::-1], ())
            content: Content = Elements(_transposed(checkpoint, variable))
        elif change is not None and (problem := layout_problem(variable, change.name, checkpoint.path, "use 'rename'")):
            problems.append(problem)
            continue
        elif unpartition and variable.slices is not None:
            form = Variable(variable.name, variable.key, variable.dtype, variable.shape, ())
            content = Copy(checkpoint, variable)
        else:
            continue
        if change is None:
            changes.append(Change("transposed" if variable.name in transposed else "unpartitioned", form, content))
        else:
            change.variable, change.content = form, content
    check(problems)
    if not graph and GRAPH in checkpoint.variables:
        changes.append(Change("dropped", checkpoint[GRAPH], reason="it means nothing in this format"))
    changes.sort(key=lambda change: natural_key(change.name))
    return Plan(checkpoint, changes)


def _transposed(checkpoint: Checkpoint, variable: Variable) -> Callable[[], Iterator[NDArray[Any]]]:
    return lambda: iter([checkpoint.read(variable.name).T.reshape(-1)])


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
        if GRAPH in checkpoint.variables:  # a full key is a name too
            matched = {name: name_b.removesuffix(_hidden(checkpoint[name])) for name, name_b in matched.items()}
        if not matched:
            hint = did_you_mean(rename.old, checkpoint.variables)
            if any(name.startswith(rename.old + "/") for name in checkpoint.variables):
                hint = f"a prefix ends in /: {rename.old}/={rename.new}/"
            problems.append(UsageError(f"nothing matches {rename.old}", path=checkpoint.path, hint=hint))
        for name, name_b in matched.items():
            if new.setdefault(name, name_b) != name_b:
                what = f"{name} would get two names: {new[name]} and {name_b}"
                problems.append(UsageError(what, path=checkpoint.path))
    for slot, owner in schemes.slots(checkpoint).items():
        if owner in new and slot not in new:
            new[slot] = schemes.renamed_slot(slot, owner, new[owner])
    changes = []
    takers: dict[bytes, str] = {}
    for name, variable in checkpoint.variables.items():
        change = Change("renamed", variable, source=name)
        if new.get(name, name) != name:
            change.name = new[name]
            # Without a graph, a checkpoint is not object-based, and its keys are plain names.
            hidden = _hidden(variable) if GRAPH in checkpoint.variables else ""
            change.key = (change.name + hidden).encode("utf-8", "surrogateescape")
            changes.append(change)
        if change.key in takers:
            what = f"{takers[change.key]} and {name} would both be {change.name}"
            problems.append(RefusedError(what, path=checkpoint.path))
        if not change.name or not change.key or change.key[0] == 0:
            problems.append(RefusedError(f"no variable can have the name '{change.name}'", path=checkpoint.path))
        takers[change.key] = name
    check(problems)
    return plan_of(checkpoint, changes)


def _hidden(variable: Variable) -> str:
    """The end of a variable's key that its name leaves out."""
    key = variable.key.decode("utf-8", "surrogateescape")
    return key[len(variable.name) :] if key.startswith(variable.name) else ""


def cast(checkpoint: Checkpoint, dtype: str, selection: Selection, slots: str = "keep") -> Plan:
    """Give variables another dtype: floats are rounded; any other loss is refused.

    Args:
        checkpoint: open.
        dtype: the new one, by its name.
        selection: which variables; slots follow only `slots`. An empty selection means all floats. An optimizer's own
            variables and step counters are left out unless a pattern matches them alone.
        slots: see `SlotPolicy`; `copy` casts them too.

    Raises:
        UsageError: no such dtype, or the selection is empty and the dtype is not a float.
        RefusedError: strings and variants cannot be cast.
    """
    policy = SlotPolicy(slots)
    if dtype not in ITEM_SIZE:
        raise UsageError(f"no dtype {dtype}", hint=did_you_mean(dtype, ITEM_SIZE) or "float32, bfloat16, int8, …")
    if selection.is_empty and not is_float(dtype):
        raise UsageError(f"casting to {dtype} needs a selection", path=checkpoint.path, expected="--layers or --match")
    chosen = without_slots(checkpoint, selection.variables(checkpoint))
    chosen = _without_hyper_parameters(checkpoint, chosen, selection)
    if selection.is_empty:
        chosen = [variable for variable in chosen if is_float(variable.dtype)]
    elif GRAPH not in selection.match:  # a glob that matches everything means the values
        chosen = [variable for variable in chosen if variable.name != GRAPH]
    problems: list[CkptSurgeonError] = []
    changes = policy.changes(checkpoint, [variable.name for variable in chosen], problems)
    if policy.action == "copy":
        owned = schemes.slots_by_variable(checkpoint)
        slots_of = [checkpoint[slot] for variable in chosen for slot in owned.get(variable.name, [])]
        chosen += [slot for slot in slots_of if is_float(slot.dtype) or not is_float(dtype)]
    for variable in chosen:
        if not variable.is_numeric:
            what = f"{variable.name} cannot be cast: it holds no numbers"
            problems.append(RefusedError(what, path=checkpoint.path, found=variable.dtype))
        elif variable.dtype != dtype:
            new = Variable(variable.name, variable.key, dtype, variable.shape, variable.extents, variable.slices)
            changes.append(Change("cast", new, Elements(_cast(checkpoint, variable, dtype), variable.dtype)))
    check(problems)
    return plan_of(checkpoint, changes)


def _without_hyper_parameters(checkpoint: Checkpoint, chosen: list[Variable], selection: Selection) -> list[Variable]:
    """The variables without an optimizer's own (learning rate, powers of beta) and counters that no pattern names.

    A learning rate of 1e-5 is 1.0013580322265625e-05 as float16, and a step beyond 65,504 is infinite. `**` means
    the weights; a pattern that matches such variables alone means them.
    """
    own = schemes.own_variables(checkpoint)
    slots = schemes.slots(checkpoint) if own and selection.match else {}
    for pattern in selection.match if own else ():
        names = [variable.name for variable in matching(checkpoint, pattern)]
        if all(name in own or name in slots for name in names):
            own.difference_update(names)
    return [variable for variable in chosen if variable.name not in own]


def _cast(checkpoint: Checkpoint, variable: Variable, dtype: str) -> Callable[[], Iterator[NDArray[Any]]]:
    def make() -> Iterator[NDArray[Any]]:
        from .. import numeric

        for part in checkpoint.elements(variable):
            yield numeric.cast_exactly(part, numeric.dtype(dtype), f"the new dtype of {variable.name}")

    return make


def is_float(dtype: str) -> bool:
    """Whether a dtype's name is that of a floating-point type."""
    return dtype.startswith(("float", "bfloat"))


def extract(checkpoint: Checkpoint, selection: Selection, slots: bool = False, graph: bool = True) -> Plan:
    """Keep only the selected variables, for a new checkpoint.

    Args:
        checkpoint: open.
        selection: which variables.
        slots: keep the slots of the selected variables too.
        graph: keep an object graph, without what is removed. In formats without object graphs it is kept only if its
            own name is selected.

    Raises:
        UsageError: nothing is selected, or slots only.
    """
    if selection.is_empty:
        raise UsageError("nothing is selected", path=checkpoint.path, expected="--layers or --match")
    hint = "select their variables, and --slots"
    chosen = {variable.name for variable in without_slots(checkpoint, selection.variables(checkpoint), hint=hint)}
    if slots:
        chosen.update(slot for slot, owner in schemes.slots(checkpoint).items() if owner in chosen)
    changes = [
        Change("extracted" if name in chosen else "dropped", variable)
        for name, variable in checkpoint.variables.items()
        if name in chosen or name != GRAPH
    ]
    plan = plan_of(checkpoint, changes)
    if not graph and GRAPH in checkpoint.variables and GRAPH not in selection.match:
        plan.changes = [change for change in plan.changes if change.name != GRAPH]
        plan.changes.append(Change("dropped", checkpoint[GRAPH], reason="it means nothing in this format"))
    return plan
