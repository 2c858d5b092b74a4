"""Graft: rewrite variables of one checkpoint with those of another. Planned from metadata only."""

from __future__ import annotations

from .. import schemes
from ..checkpoint import GRAPH, Variable
from ..errors import CkptSurgeonError, RefusedError, UsageError, check, did_you_mean
from ..names import shown
from ..plan import Change, Copy, Elements, Plan, plan_of
from .maps import layout_problem
from .naming import Pairs
from .options import GraftOptions
from .slots import check_kinds_known, check_owners_known, slots_by_kind, without_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..plan import Content
    from .maps import Map

_KEEP = "--exclude leaves it out, --on-mismatch skip passes it over"


def graft(donor: Checkpoint, recipient: Checkpoint, options: GraftOptions) -> Plan:
    """Rewrite the selected variables of the recipient with those of the donor.

    Args:
        donor: open; its names and layer numbers are what the selection means.
        recipient: open.
        options: which variables, and how; slots follow only `options.slots`. If nothing is selected, the variables
            that the maps match; without maps, everything.

    Raises:
        UsageError: the selection selects nothing, or slots only; or a map is never used.
        RefusedError: a variable is missing on one side, or is of another dtype or shape there.
        Problems: several of these.
    """
    return _Graft(donor, recipient, options).plan()


class _Graft:
    """A graft that is being planned."""

    def __init__(self, donor: Checkpoint, recipient: Checkpoint, options: GraftOptions) -> None:
        self.donor = donor
        self.recipient = recipient
        self.selection = options.selection
        self.options = options
        self.changes: list[Change] = []
        self.problems: list[CkptSurgeonError] = []
        self.transposed: set[str] = set()  # names of the recipient's variables that get a transposed matrix
        self._pairs = Pairs(donor, recipient, options.selection, options.recipient_scheme)
        self._mapped: dict[str, list[tuple[str, Map]]] = {}  # donor's name -> recipient's names
        for each in options.maps:
            for name, target in each.apply(donor).items():
                self._mapped.setdefault(name, []).append((target, each))
        self._promoted = self._slots_onto_weights()

    def plan(self) -> Plan:
        """The plan."""
        chosen = self._chosen()
        for variable in chosen:
            targets = self._mapped.get(variable.name)
            only = self._promoted.get(variable.name)
            for name, transposes in dict.fromkeys((name, by.transposes) for name, by in targets or []):
                if only is None or name in only:
                    self._onto(variable, self.recipient.named(name), name, transposes)
            if targets is None:
                self._onto_pair(variable)
        names = {variable.name for variable in chosen}
        for each in self.options.maps:
            if not any(by is each for name in names for _, by in self._mapped.get(name, [])):
                hint = did_you_mean(each.old, self.donor.variables)
                if any(by is each for targets in self._mapped.values() for _, by in targets):
                    hint = "the variables it names are not selected"
                self.problems.append(UsageError(f"--map {each} is never used", path=self.donor.path, hint=hint))
        self._check_lacking()
        self._check_targets()
        check(self.problems)
        self._graft_slots()
        self._check_targets()
        check(self.problems)
        self.changes.sort(key=lambda change: change.action != "skipped")  # of one name, the last in a plan counts
        plan = plan_of(self.recipient, self.changes)
        plan.warnings += self._overwritten()
        return plan

    def _overwritten(self) -> list[str]:
        """A warning, if variables that look like slots get values although no map names them."""
        likely = schemes.candidates(self.recipient)
        changes = (change for change in self.changes if change.action == "grafted" and change.name in likely)
        names = [change.name for change in changes if change.source not in self._mapped]
        if not names:
            return []
        what = f"{shown(names)}: grafted like weights, although the names look like those of an optimizer's slots"
        return [f"{self.recipient.path}: {what}; --exclude leaves them out"]

    def _chosen(self) -> list[Variable]:
        """The selected variables of the donor, without slots but for those that a map makes weights."""
        if self.selection.is_empty and self.options.maps:
            selected = [self.donor[name] for name in self._mapped]
            if not selected:
                return []  # all maps are unused, which is reported for each
            selected = self.selection.left_of(self.donor, selected)
        else:
            selected = self.selection.variables(self.donor)
        if [variable.name for variable in selected] == [GRAPH]:
            raise UsageError(f"{GRAPH} describes its own checkpoint and cannot be grafted", path=self.donor.path)
        chosen = without_slots(self.donor, selected, self._promoted)
        return [variable for variable in chosen if variable.name != GRAPH]

    def _slots_onto_weights(self) -> dict[str, set[str]]:
        """For each donor slot that maps send onto variables that are not slots (averages onto weights), their names."""
        found: dict[str, set[str]] = {}
        if not self._mapped:
            return found
        theirs, ours = schemes.slots(self.donor), schemes.slots(self.recipient)
        for slot in theirs.keys() & self._mapped.keys():
            for name, _ in self._mapped[slot]:
                target = self.recipient.named(name)
                if target is not None and target.name not in ours:
                    found.setdefault(slot, set()).add(name)
        return found

    def _onto_pair(self, variable: Variable) -> None:
        """Plan the graft of a variable that no map names."""
        try:
            target = self._pairs.target(variable)
        except RefusedError as error:
            self.problems.append(error)
        else:
            self._onto(variable, target, target.name if target else variable.name, False)

    def _onto(self, variable: Variable, target: Variable | None, name: str, transposed: bool) -> None:
        """Plan the graft of one variable onto a target, which the recipient may lack."""
        if target is not None:
            content = self._content(variable, target, transposed)
            if content is not None:
                self.transposed.update([target.name] if transposed else [])
                self.changes.append(Change("grafted", target, content, variable.name))
            return
        new = Variable(name, self.recipient.key_of(name), variable.dtype, variable.shape, (), variable.slices)
        if transposed:
            new = Variable(name, new.key, variable.dtype, variable.shape[::-1], ())
        if self.options.add:
            self._add(variable, new, transposed)
            return
        what = f"no variable {name}, which the donor has" if name == variable.name else f"no variable {name}"
        near = did_you_mean(name, self.recipient.variables)
        self._mismatch(
            RefusedError(what, path=self.recipient.path, hint=near or "--add adds it, --exclude leaves it out"),
            Change("skipped", new, None, variable.name, "missing in the recipient"),
        )

    def _add(self, variable: Variable, new: Variable, transposed: bool) -> None:
        """Plan that a variable of the donor is added."""
        if self.recipient.find(new.name) is not None:
            what = f"{new.name} cannot be added: it is the name of another variable here"
            self.problems.append(RefusedError(what, path=self.recipient.path, hint="leave it out by --exclude"))
            return
        if not new.key or new.key[0] == 0:
            what = f"no variable can have the name '{new.name}'"
            self.problems.append(RefusedError(what, path=self.recipient.path))
            return
        content = self._content(variable, new, transposed)
        if content is not None:
            self.transposed.update([new.name] if transposed else [])
            self.changes.append(Change("added", new, content, variable.name))

    def _mismatch(self, problem: CkptSurgeonError, skipped: Change) -> None:
        """A problem, or what is skipped instead."""
        if self.options.skip:
            self.changes.append(skipped)
        else:
            self.problems.append(problem)

    def _content(self, variable: Variable, target: Variable, transposed: bool) -> Content | None:
        """The target's new content from a variable of the donor; None, and a problem, if it does not fit."""
        whose = "the donor's" if variable.name == target.name else f"the donor's {variable.name}"
        shape = variable.shape[::-1] if transposed else variable.shape
        problem: CkptSurgeonError | None = None
        if transposed and len(shape) != 2:
            problem = RefusedError(
                f"cannot transpose {variable.name}: it is not a matrix",
                path=self.donor.path,
                expected="two dimensions",
                found=list(variable.shape),
            )
        elif not transposed and (other := layout_problem(variable, target.name, self.recipient.path, _KEEP)):
            problem = other
        elif self.donor.byteorder != self.recipient.byteorder and variable.dtype == "variant":
            problem = RefusedError(
                f"{variable.name} is a variant, which cannot change its byte order",
                path=self.recipient.path,
                expected=self.recipient.byteorder,
                found=self.donor.byteorder,
                hint="leave it out by --exclude",
            )
        if problem is not None:
            self.problems.append(problem)
            return None
        casts = self.options.cast and variable.is_numeric and target.is_numeric
        fits = True
        for kind, expected, found, differs, hint in (
            ("dtype", variable.dtype, target.dtype, variable.dtype != target.dtype and not casts, "--cast converts it"),
            ("shape", list(shape), list(target.shape), shape != target.shape, ""),
        ):
            if differs and (fits or not self.options.skip):  # one row for what is skipped, but all problems
                fits = False
                self._mismatch(
                    RefusedError(
                        f"{target.name} has a different {kind} than {whose}",
                        path=self.recipient.path,
                        expected=expected,
                        found=found,
                        hint=f"{hint}, {_KEEP}" if hint and variable.is_numeric and target.is_numeric else _KEEP,
                    ),
                    Change("skipped", target, None, variable.name, f"different {kind} than the donor's: {expected}"),
                )
        if not fits:
            return None
        if transposed or variable.dtype != target.dtype:
            old = variable.dtype if variable.dtype != target.dtype else None
            return Elements(lambda: _computed(self.donor, variable, target.dtype, transposed), old)
        return Copy(self.donor, variable)

    def _check_lacking(self) -> None:
        """Report variables in the recipient's layers that the donor's layers lack."""
        found = {change.variable.name for change in self.changes}
        if self.options.maps or self.selection.exclude or self.problems:
            return  # whole layers were not asked for, or the problems already explain what is lacking
        for variable in self._pairs.lacking(found):
            self._mismatch(
                RefusedError(
                    f"the donor has no variable for {variable.name}",
                    path=self.recipient.path,
                    hint="--on-mismatch skip leaves it as it is",
                ),
                Change("skipped", variable, None, None, "missing in the donor"),
            )

    def _check_targets(self) -> None:
        """Report variables that would get values from two sources, or in two ways."""
        first: dict[str, Change] = {}
        for change in self.changes:
            other = change if change.action == "skipped" else first.setdefault(change.name, change)
            if other is change:
                continue
            what = f"{other.source} and {change.source} would both become {change.name}"
            if other.source is None or change.source is None:
                by_map, by_slots = (change, other) if other.source is None else (other, change)
                what = f"{change.name} would get {by_map.source} by a map, and be {by_slots.action} by --slots"
            self.problems.append(RefusedError(what, path=self.recipient.path))

    def _graft_slots(self) -> None:
        """What the policy does to the slots of the grafted variables."""
        policy = self.options.slots
        grafted = [change for change in self.changes if change.action == "grafted"]
        added = [change for change in self.changes if change.action == "added"]
        self.changes += policy.changes(self.recipient, [change.name for change in grafted], self.problems)
        if policy.action != "copy":
            return
        theirs, ours = schemes.slots_by_variable(self.donor), schemes.slots_by_variable(self.recipient)
        check_owners_known(self.recipient, [change.name for change in grafted], ours, self.problems)
        check_owners_known(self.donor, [change.source or "" for change in grafted], theirs, self.problems)
        sources = [slot for change in [*grafted, *added] for slot in theirs.get(change.source or "", [])]
        check_kinds_known(self.donor, sources, self.problems)
        check_kinds_known(
            self.recipient, [slot for change in grafted for slot in ours.get(change.name, [])], self.problems
        )
        for change in added:
            for slot in theirs.get(change.source or "", []):
                name = schemes.renamed_slot(slot, change.source or "", change.name)
                self._onto(self.donor[slot], None, name, change.name in self.transposed)
        for change in grafted:
            donated = slots_by_kind(self.donor, theirs.get(change.source or "", []), change.source or "")
            wanted = slots_by_kind(self.recipient, ours.get(change.name, []), change.name)
            for kind in sorted(donated.keys() | wanted.keys()):
                if kind in donated and kind in wanted:
                    target = self.recipient[wanted[kind]]
                    self._onto(self.donor[donated[kind]], target, target.name, change.name in self.transposed)
                    continue
                where, lacking = (self.recipient, donated) if kind in donated else (self.donor, wanted)
                whose = "the donor" if kind in donated else "the recipient"
                self._mismatch(
                    RefusedError(f"no slot {lacking[kind]}, which {whose} has", path=where.path, hint="--slots keep"),
                    Change("skipped", self._slot(lacking[kind]), None, None, f"only {whose} has this slot"),
                )

    def _slot(self, name: str) -> Variable:
        """A slot that only one side has."""
        return self.recipient.find(name) or self.donor[name]


def _computed(donor: Checkpoint, variable: Variable, dtype: str, transposed: bool) -> Iterator[NDArray[Any]]:
    """The elements of a donor's variable in another dtype, or of its transposed matrix."""
    from .. import numeric

    kind = numeric.dtype(dtype)
    parts = iter([donor.read(variable.name).T.reshape(-1)]) if transposed else donor.elements(variable)
    for part in parts:
        yield numeric.cast_exactly(part, kind, f"the recipient's dtype of {variable.name}")
