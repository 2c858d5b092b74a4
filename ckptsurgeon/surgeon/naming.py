"""Pairs the variables of two checkpoints: which recipient variable corresponds to which donor variable."""

from __future__ import annotations

from .. import schemes
from ..errors import CkptSurgeonError, RefusedError
from ..names import ATTRIBUTES, natural_key, shown
from .maps import layout_problem
from .slots import USUAL_NAMES, slots_by_kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..checkpoint import Checkpoint, Variable
    from .selection import Selection


class Pairs:
    """Which recipient variable corresponds to which donor variable.

    Variables pair by name. If no variable has the donor's name and layers or schemes were given, the variable in the
    layer of the same number pairs whose rest of the name is equal, or else the only one there with the same role
    (kernel, bias). If both containers number their layers themselves, layers take precedence over names:
    `optimizer/_trainable_variables/4` may be a kernel in one checkpoint and the bias of another layer in the other.
    Variables of a layer that are still unpaired then pair by their position in the layer, if shapes agree.

    Args:
        donor: the donor, open.
        recipient: the recipient, open.
        selection: the selection, with its layers and the donor's scheme.
        recipient_scheme: the scheme of the recipient's layer names; None: inferred from its names.
    """

    def __init__(
        self, donor: Checkpoint, recipient: Checkpoint, selection: Selection, recipient_scheme: str | None = None
    ) -> None:
        self._donor = donor
        self._recipient = recipient
        self._selection = selection
        self._recipient_scheme = recipient_scheme
        self._names_decide = recipient_scheme is None and (selection.layers is None or not donor.layer_tables())
        self._layers: _Layers | None = None
        self._looked = False

    def target(self, variable: Variable) -> Variable | None:
        """Return the recipient's variable that receives the donor's values; None if the recipient has none.

        Raises:
            UsageError: a requested scheme does not fit.
            RefusedError: the variables of its layer do not pair.
        """
        same = self._recipient.find(variable.name)
        if same is not None and self._names_decide:
            return same
        layers = self._both()
        number = layers.theirs.number(variable.name) if layers else None
        if layers is None or number is None:
            return same
        if same is not None and self._recipient_scheme is None and not layers.numbered_by_both:
            return same
        return layers.target(number, variable, self._selection.layers is not None and not self._selection.exclude)

    def lacking(self, found: set[str]) -> list[Variable]:
        """Return the variables in the recipient's selected layers that get no values from the donor, except slots.

        Args:
            found: names of the variables that get values.
        """
        layers = self._both() if self._selection.layers is not None else None
        if layers is None:
            return []
        numbers = self._selection.layer_numbers(self._donor)
        return [self._recipient[name] for name in layers.names(numbers) if name not in found]

    def all(self) -> dict[str, str]:
        """Return all pairs with different names, including slots and optimizer variables: donor's -> recipient's."""
        layers = self._both()
        found = layers.pairs() if layers else {}
        if not found:
            return {}
        theirs, ours = _own(self._donor), _own(self._recipient)
        own = {theirs[last]: ours[last] for last in theirs.keys() & ours.keys()}
        slots = schemes.slots_by_variable(self._donor), schemes.slots_by_variable(self._recipient)
        for name, other in found.items():
            theirs = _unambiguous(slots_by_kind(self._donor, slots[0].get(name, []), name))
            ours = _unambiguous(slots_by_kind(self._recipient, slots[1].get(other, []), other))
            own.update((theirs[kind], ours[kind]) for kind in theirs.keys() & ours.keys())
        names = self._donor.variables, self._recipient.variables
        return found | {name: other for name, other in own.items() if name not in names[1] and other not in names[0]}

    def _both(self) -> _Layers | None:
        """Return the layers of both; None if no layers were requested, or no scheme fits the recipient."""
        asked = self._selection.scheme or self._recipient_scheme or self._selection.layers
        if not self._looked and asked is not None:
            self._looked = True
            theirs = schemes.find(self._donor, self._selection.scheme, self._selection.option)
            try:
                wanted = self._recipient_scheme or self._shared(theirs)
                ours = schemes.find(self._recipient, wanted, "--recipient-scheme")
            except CkptSurgeonError:
                if self._recipient_scheme is not None:
                    raise
                return None
            self._layers = _Layers(self._donor, self._recipient, theirs, ours)
        return self._layers

    def _shared(self, theirs: schemes.Scheme) -> str | None:
        """Return the name of the donor's scheme if it finds layers in the recipient, or None."""
        if isinstance(theirs, schemes.TableScheme):
            return theirs.name if theirs.name in self._recipient.layer_tables() else None
        return theirs.name if theirs.layers(self._recipient) else None


class _Layers:
    """The layers of a donor and of a recipient, each by its scheme.

    Attributes:
        theirs: the donor's scheme.
        numbered_by_both: whether both containers number their layers themselves.
    """

    def __init__(self, donor: Checkpoint, recipient: Checkpoint, theirs: schemes.Scheme, ours: schemes.Scheme) -> None:
        tables = [isinstance(scheme, schemes.TableScheme) for scheme in (theirs, ours)]
        self.theirs = theirs
        self.numbered_by_both = all(tables)
        self._same = theirs.name == ours.name and not any(tables)
        self._donor, self._recipient = donor, recipient
        self._is_ordered = donor.has_program_order and recipient.has_program_order
        self._legacy = {scheme.name == "layer_names" for scheme in (theirs, ours)}
        self._donors = _rests(donor, theirs, any(tables))
        self._recipients = _rests(recipient, ours, any(tables))
        self._pairs: dict[int, dict[str, str]] = {}

    def names(self, numbers: Iterable[int]) -> list[str]:
        """Return the recipient's variables, except slots, in the layers with these numbers."""
        return [name for number in numbers for name in self._recipients.get(number, {})]

    def pairs(self) -> dict[str, str]:
        """Return the pairs with different names in all layers; empty if the two do not have the same layer numbers."""
        found: dict[str, str] = {}
        if self._donors.keys() == self._recipients.keys():
            for number, donors in self._donors.items():
                left = {name: each for name, each in donors.items() if name not in self._recipient.variables}
                right = self._recipients[number].items()
                found |= self._paired(left, {name: each for name, each in right if name not in self._donor.variables})
        return found

    def target(self, number: int, variable: Variable, whole: bool) -> Variable | None:
        """Return the recipient's variable that corresponds to the donor's; None if its layer has no unpaired one left.

        Args:
            number: number of the layer.
            variable: the donor's.
            whole: refuse variables in the recipient's layer that the donor's layer lacks.

        Raises:
            RefusedError: the variables of the layer do not pair.
        """
        donors, recipients = self._donors.get(number, {}), self._recipients.get(number, {})
        if number not in self._pairs:
            self._pairs[number] = self._paired(donors, recipients)
        pairs = self._pairs[number]
        left = [name for name in donors if name not in pairs]
        right = [name for name in recipients if name not in pairs.values()]
        if right and not self._same and (variable.name in left or (whole and not left)):
            layouts = [
                problem
                for name in left
                for one in right
                if (problem := layout_problem(self._donor[name], one, self._recipient.path, ""))
            ]
            if len(layouts) == 1:
                raise layouts[0]
            raise RefusedError(
                f"layer {number}: the variables of donor and recipient do not pair",
                path=self._recipient.path,
                expected=f"counterparts of {shown(left)}" if left else "no variables that the donor lacks",
                found=shown(right),
                hint="--match names variables one by one",
            )
        name = pairs.get(variable.name)
        return None if name is None else self._recipient[name]

    def _paired(self, donors: dict[str, _Weight], recipients: dict[str, _Weight]) -> dict[str, str]:
        """Pair the variables of one layer: by name, and if both containers number layers, also by position.

        By position, all variables or none are paired. Variables of equal shape differ only in their order, so both
        containers must have them in the order of the program. Legacy Keras files list a layer's parts in creation
        order, newer ones alphabetically; within a single group both have creation order.
        """
        found = _paired(donors, recipients)
        if not self.numbered_by_both or len(found) == len(donors):
            return found
        taken = set(found.values())
        left = {name: each for name, each in donors.items() if name not in found}
        right = {name: each for name, each in recipients.items() if name not in taken}
        pairs = dict(zip(*(_ordered(side, True not in self._legacy) for side in (left, right)), strict=False))
        if len(left) != len(right) or any(left[x].contradicts(right[y]) for x, y in pairs.items()):
            return found
        if len({each.shape for each in left.values()}) < len(left):
            groups = [{name.rpartition("/")[0] for name in each} for each in (left, right)]
            if not self._is_ordered or (len(self._legacy) > 1 and max(map(len, groups)) > 1):
                return found
        return found | pairs


class _Weight:
    """The features that identify a variable in its layer: the rest of its name or, if `short`, its last component."""

    __slots__ = ("_names", "end", "rest", "role", "shape")

    def __init__(self, variable: Variable, rest: str, short: bool) -> None:
        self.rest, self.shape = (rest.rpartition("/")[2] if short else rest), variable.shape
        self.role, self.end = schemes.role(rest), rest.split("/")[-2:]
        self._names = f"{variable.name} {rest}" if short else ""

    def words_of_names(self) -> set[str]:
        """Return the words of the name and the full name; empty unless only the last component is used."""
        letters = (char if char.isalnum() and not char.isdecimal() else " " for char in self._names)
        return set("".join(letters).lower().split())

    def contradicts(self, other: _Weight) -> bool:
        """Return whether the shape or the role rules out that the two correspond."""
        return self.shape != other.shape or (self.role != other.role and None not in (self.role, other.role))


def _own(checkpoint: Checkpoint) -> dict[str, str]:
    """Return an optimizer's own variables, not its slots, by the last part of their names: iteration, learning_rate."""
    slots = schemes.slots(checkpoint)
    found: dict[str, list[str]] = {}
    for name in schemes.optimizer_variables(checkpoint) - slots.keys():
        last = (checkpoint.full_name(name) or name).partition(ATTRIBUTES)[0].rpartition("/")[2].strip("_")
        found.setdefault(USUAL_NAMES.get(last, last), []).append(name)
    return {last: names[0] for last, names in found.items() if len(names) == 1 and not last.isdecimal()}


def _unambiguous(slots: dict[tuple[str, int], str]) -> dict[str, str]:
    """Return slots by kind, for kinds that are names and of which the variable has only one slot."""
    return {
        kind: slot
        for (kind, number), slot in slots.items()
        if number == 0 and (kind, 1) not in slots and kind and not kind.isdecimal()
    }


def _rests(checkpoint: Checkpoint, scheme: schemes.Scheme, short: bool) -> dict[int, dict[str, _Weight]]:
    """Return for each layer its variables with the rest of the name or, if `short`, the last component."""
    slots = schemes.slots(checkpoint)
    found: dict[int, dict[str, _Weight]] = {}
    for number, variables in scheme.layers(checkpoint).items():
        weights = found[number] = {}
        for variable in (variable for variable in variables if variable.name not in slots):
            name = rest = variable.name
            if isinstance(scheme, schemes.PatternScheme):
                span = scheme.span(name)
                rest = name[span[1] :] if span else name
            elif isinstance(scheme, schemes.TableScheme):
                rest = checkpoint.full_name(name) or name
            weights[name] = _Weight(variable, rest, short)
        for name, weight in weights.items():
            if weight.rest.isdecimal() and f"{name.rpartition('/')[0]}/2" in weights:
                weight.role = None  # of three weights, as in an LSTM, vars/1 is not a bias
    return found


def _ordered(weights: dict[str, _Weight], by_name: bool) -> list[str]:
    """Sort variables by group (by group name, or in the container's order), and within a group by their numbers."""
    groups = list(dict.fromkeys(name.rpartition("/")[0] for name in weights))
    rank = {group: at for at, group in enumerate(sorted(groups, key=natural_key) if by_name else groups)}
    parts = [(name.rpartition("/")[0], name.rpartition("/")[2], name) for name in weights]
    parts.sort(key=lambda each: (rank[each[0]], int(each[1]) if each[1].isdecimal() and len(each[1]) < 10 else 0))
    return [name for _, _, name in parts]


def _paired(donors: dict[str, _Weight], recipients: dict[str, _Weight]) -> dict[str, str]:
    """Pair the variables of one layer: by each key in turn, those whose key is unique on both sides."""
    found: dict[str, str] = {}
    keys: tuple[Callable[[str, _Weight], object], ...] = (
        lambda name, each: (name, each.rest),
        lambda name, each: (name.rpartition("/")[2], each.rest),
        lambda name, each: each.rest,
        lambda name, each: tuple(each.end) if alike else None,  # dense_2/kernel, dense_3/kernel
        lambda name, each: (each.rest, frozenset(each.words_of_names() & shared)),  # query/kernel, key/kernel
        lambda name, each: each.role,
    )
    shared, alike = set[str](), False
    for number, key_of in enumerate(keys):
        if len(found) == len(donors):
            break
        if number == 3:
            words = [set().union(*(each.words_of_names() for each in side.values())) for side in (donors, recipients)]
            shared = words[0] & words[1]
            alike = sorted(each.end for each in donors.values()) == sorted(each.end for each in recipients.values())
        theirs, ours = _unique_by(donors, key_of), _unique_by(recipients, key_of)
        taken = set(found.values())
        for key, name in theirs.items():
            if name not in found and key in ours and ours[key] not in taken:
                found[name] = ours[key]
    return found


def _unique_by(weights: dict[str, _Weight], key_of: Callable[[str, _Weight], object]) -> dict[object, str]:
    """Index variables by a key that is unique within the layer; variables whose key is None are left out."""
    by_key: dict[object, list[str]] = {}
    for name, each in weights.items():
        by_key.setdefault(key_of(name, each), []).append(name)
    return {key: names[0] for key, names in by_key.items() if len(names) == 1 and key is not None}
