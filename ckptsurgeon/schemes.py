"""Naming schemes: which names form layer K, which layers a range means, and which slots follow which variable."""

from __future__ import annotations

import re

from .errors import CkptSurgeonError, UsageError, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .checkpoint import Checkpoint, Variable

# The table of known schemes: a name, and the pattern of a layer's variables. {K} is the layer's number, {_K} nothing
# for layer 0 and then _1, _2, …; `*` stays within a path component, `**` crosses `/`, `?` is one character.
KNOWN = (
    ("skflow", "dnn/layer{K}/**"),
    ("estimator", "dnn/hiddenlayer_{K}/**"),  # tf.contrib.learn and tf.estimator
)

# The last component of a slot's name (TensorFlow 1 optimizers, BERT's own Adam, moving averages).
SLOTS = frozenset(
    (
        "Momentum", "Adagrad", "ProximalAdagrad", "AdagradDA", "AdagradDA_1", "Adam", "Adam_1", "RMSProp", "RMSProp_1",
        "RMSProp_2", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1", "ExponentialMovingAverage", "adam_m", "adam_v",
    )
)  # fmt: skip
OBJECT_SLOT = "/.OPTIMIZER_SLOT/"  # of an object-based checkpoint: <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>

_TOKENS = re.compile(r"\{K\}|\{_K\}|\*\*|\*|\?")
_TRANSLATED = {
    "{K}": r"(?P<K>\d+)",
    "{_K}": r"(?:_(?P<_K>[1-9]\d*))?",
    "**": r".*",
    "*": r"[^/]*",
    "?": r"[^/]",
}
# What TensorFlow leaves between a partitioned variable's name and its slot's: the tail of '/part_0/'.
_PARTITION_TAIL = re.compile(r"/(?:t_0|part_\d+)?$")
_DIGITS = re.compile(r"(\d+)")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of names as a regular expression for the whole name; all but its wildcards is literal."""
    parts, at = [], 0
    for token in _TOKENS.finditer(pattern):
        parts += [re.escape(pattern[at : token.start()]), _TRANSLATED[token[0]]]
        at = token.end()
    return re.compile("".join(parts) + re.escape(pattern[at:]), re.DOTALL)


def natural_key(name: str) -> list[str | int]:
    """A sort key under which layer2 comes before layer10."""
    return [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(name))]


class Scheme:
    """How layers are named.

    Args:
        name: of a row of the table, or the user's pattern itself.
        pattern: of the variables of layer {K}.

    Raises:
        UsageError: the pattern has not exactly one {K} or {_K}.
    """

    def __init__(self, name: str, pattern: str) -> None:
        if pattern.count("{K}") + pattern.count("{_K}") != 1:
            raise UsageError(
                f"--scheme {pattern}: no such scheme, and as a pattern it needs {{K}} once",
                expected=f"{', '.join(known for known, _ in KNOWN)}, or a pattern like 'tower/{{K}}/**'",
            )
        self.name = name
        self.pattern = pattern
        self._expression = compile_pattern(pattern)
        self._optional = "{_K}" in pattern

    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs; None if to none."""
        match = self._expression.fullmatch(name)
        if match is None:
            return None
        return int(match["_K"] or 0) if self._optional else int(match["K"])

    def layers(self, checkpoint: Checkpoint) -> dict[int, list[Variable]]:
        """The variables of each layer, slots included, by rising number."""
        found: dict[int, list[Variable]] = {}
        for variable in checkpoint.variables.values():
            number = self.number(variable.name)
            if number is not None:
                found.setdefault(number, []).append(variable)
        return dict(sorted(found.items()))


def fitting(checkpoint: Checkpoint) -> list[Scheme]:
    """The known schemes that name at least one layer of a checkpoint."""
    return [scheme for scheme in (Scheme(*row) for row in KNOWN) if scheme.layers(checkpoint)]


def find(checkpoint: Checkpoint, pattern: str | None = None) -> Scheme:
    """The scheme by which a checkpoint names its layers.

    Args:
        checkpoint: whose names decide.
        pattern: the user's choice, a known scheme's name or a pattern; without it the one that fits.

    Raises:
        UsageError: none fits, or several do.
    """
    if pattern is not None:
        scheme = Scheme(pattern, dict(KNOWN).get(pattern, pattern))
        if not scheme.layers(checkpoint):
            raise UsageError(f"no variable fits --scheme {pattern}", path=checkpoint.path)
        return scheme
    fit = fitting(checkpoint)
    if not fit:
        example = next((name for name in checkpoint.variables if _DIGITS.search(name)), None)
        hint = "name them with --scheme, for instance 'tower/{K}/**'"
        raise UsageError("its names fit no known scheme of layers", path=checkpoint.path, found=example, hint=hint)
    if len(fit) > 1:
        found = " and ".join(scheme.name for scheme in fit)
        raise UsageError("several schemes of layers fit", path=checkpoint.path, found=found, hint="choose by --scheme")
    return fit[0]


def parse_layers(text: str, numbers: Sequence[int], path: str | None = None) -> list[int]:
    """The layers that a range means.

    Args:
        text: items `N`, `N-M` (inclusive), `N-` (to the last), `-N` (N-th from the end) and `all`, joined by commas.
        numbers: the layers that there are, rising.
        path: the checkpoint, for messages.

    Returns:
        Numbers, rising, each once. Inside `N-M` only those count that exist.

    Raises:
        UsageError: no such layer, or no such range; all of them at once.
    """
    problems: list[CkptSurgeonError] = []
    chosen: set[int] = set()
    there = _spans(numbers)
    for item in text.split(","):
        item = item.strip()
        span = re.fullmatch(r"(\d+)(-(\d*))?|-(\d+)|all", item)
        if span is None:
            problems.append(_bad_range(item))
        elif item == "all":
            chosen.update(numbers)
        elif span[4]:
            back = int(span[4])
            if 1 <= back <= len(numbers):
                chosen.add(numbers[-back])
            else:
                problems.append(UsageError(f"no layer {item} from the end", path=path, expected=f"one of {there}"))
        else:
            first = int(span[1])
            last = first if span[2] is None else int(span[3]) if span[3] else max(numbers, default=first)
            missing = [number for number in dict.fromkeys((first, last)) if number not in numbers]
            if missing:
                what = f"no layer {' and '.join(map(str, missing))}"
                problems.append(UsageError(what, path=path, expected=f"layers {there}"))
            elif last < first:
                problems.append(UsageError(f"--layers {item} is empty", hint=f"did you mean {last}-{first}"))
            else:
                chosen.update(number for number in numbers if first <= number <= last)
    check(problems)
    return sorted(chosen)


def _bad_range(item: str) -> UsageError:
    halves = re.fullmatch(r"(\d+):(\d+)", item)
    if halves and int(halves[2]) > int(halves[1]):
        first, last = int(halves[1]), int(halves[2]) - 1
        meant = f"{first}-{last}" if last > first else f"{first}"
        return UsageError(f"--layers {item} is no range", hint=f"did you mean {meant} (inclusive)")
    return UsageError(f"--layers {item or repr(item)} is no range", expected="N, N-M, N-, -N or all, joined by commas")


def _spans(numbers: Sequence[int]) -> str:
    """Numbers as a person writes them: 0-4, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans) or "none"


def slots(checkpoint: Checkpoint) -> dict[str, str]:
    """The slots of a checkpoint: slot's name -> name of its variable.

    A slot is told by the end of its name and by having its variable's shape; between the two names may stand what
    TensorFlow leaves there of a partition (`/t_0`, `/part_0`).
    """
    variables = checkpoint.variables
    found: dict[str, str] = {}
    for name, variable in variables.items():
        base, slash, suffix = name.rpartition("/")
        if OBJECT_SLOT in name:
            base = name[: name.index(OBJECT_SLOT)]
        elif not slash or suffix not in SLOTS:
            continue
        for candidate in (base, _PARTITION_TAIL.sub("", base)):
            owner = variables.get(candidate)
            if owner is not None and owner.shape == variable.shape:
                found[name] = candidate
                break
    return found


def slots_by_variable(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The slots of each variable that has some."""
    owners: dict[str, list[str]] = {}
    for slot, owner in slots(checkpoint).items():
        owners.setdefault(owner, []).append(slot)
    return owners


def natural_order(variables: Iterable[Variable]) -> list[Variable]:
    """Variables by name, layer2 before layer10."""
    return sorted(variables, key=lambda variable: natural_key(variable.name))
