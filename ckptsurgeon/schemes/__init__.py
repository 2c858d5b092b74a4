"""Naming schemes: which names form layer K, which layers a range means, and which slots follow which variable."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from ..checkpoint import STORED
from ..errors import CkptSurgeonError, UsageError, check
from ..names import DIGITS, TOKENS, compile_pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..checkpoint import Checkpoint, Variable

# The table of known schemes: a name, and the pattern of a layer's variables. {K} is the layer's number, {_K} nothing
# for layer 0 and then _1, _2, …; `*` stays within a path component, `**` crosses `/`, `?` is one character.
# One line more makes another model known.
KNOWN = (
    ("skflow", "dnn/layer{K}/**"),
    ("estimator", "dnn/hiddenlayer_{K}/**"),  # tf.contrib.learn and tf.estimator
    ("bert", "bert/encoder/layer_{K}/**"),
    ("gpt-2", "model/h{K}/**"),
    ("t5-encoder", "encoder/block_{K}/**"),
    ("t5-decoder", "decoder/block_{K}/**"),
    ("slim-resnet", "resnet_v?_*/block{K}/**"),
    ("official-resnet", "resnet_model/conv2d{_K}/**"),
    ("hf-decoder", "model.layers.{K}.**"),  # of Hugging Face: Llama, Mistral, Qwen, Gemma, OPT's decoder, …
    ("hf-bert", "bert.encoder.layer.{K}.**"),
    ("hf-roberta", "roberta.encoder.layer.{K}.**"),
    ("hf-encoder", "encoder.layer.{K}.**"),
    ("hf-gpt-2", "transformer.h.{K}.**"),
    ("hf-gpt-2-base", "h.{K}.**"),
    ("hf-t5-encoder", "encoder.block.{K}.**"),
    ("hf-t5-decoder", "decoder.block.{K}.**"),
    ("hf-vit", "vit.encoder.layer.{K}.**"),
    ("layers", "layers.{K}.**"),  # torch.nn.ModuleList or Sequential of this name
)

# The last component of a slot's name (TensorFlow 1 optimizers, BERT's own Adam, moving averages), less the _1, _2, …
# of an optimizer's further slots.
SLOTS = frozenset(
    (
        "Momentum", "Adagrad", "ProximalAdagrad", "AdagradDA", "Adam", "RMSProp", "Adadelta", "Ftrl",
        "ExponentialMovingAverage", "adam_m", "adam_v",
    )
)  # fmt: skip
OBJECT_SLOT = "/.OPTIMIZER_SLOT/"  # of an object-based checkpoint: <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>

# tf.estimator on Keras optimizers: training/<optimizer>/<variable>/<slot>, and training/<optimizer>/iter, beta_1, ….
_TRAINING = re.compile(
    r"training/(?:SGD|Adagrad|Adadelta|Adamax|Adam|Nadam|RMSprop|Ftrl)(?:_[0-9]+)?/(.*)", re.DOTALL | re.IGNORECASE
)
_TRAINING_SLOTS = frozenset(
    ("m", "v", "vhat", "accumulator", "linear", "rms", "momentum", "mg", "accum_grad", "accum_var")
)

# The optimizer's variables that are nobody's slot.
_POWER = re.compile(r"beta[12]_power(_[0-9]+)?")
_OPTIMIZERS = ("optimizer/", "optimizer_weights/")
_WEIGHTS = "_trainable_variables"  # an optimizer's folder that holds the model's weights
_NEVER = ("global_step", "save_counter")

_ROLES = {
    **dict.fromkeys(("kernel", "_kernel", "Matrix", "weights", "w", "vars/0"), "kernel"),
    **dict.fromkeys(("bias", "Bias", "biases", "b", "vars/1"), "bias"),
}

_DEEPEST_TAIL = 16  # path components that a partition may leave in a slot's name
_LAST_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_OBJECT_VALUE = "/.ATTRIBUTES/"  # in a full key of an object-based checkpoint, after the variable's path
_MOST_SHOWN = 6  # candidates in one line


class Scheme(ABC):
    """How layers are named.

    Attributes:
        name: of a row of the table or of a container's own numbering, or the pattern itself.
    """

    name: str

    @abstractmethod
    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs; None if to none."""

    def layers(self, checkpoint: Checkpoint) -> dict[int, list[Variable]]:
        """The variables of each layer, slots included, by rising number."""
        found: dict[int, list[Variable]] = {}
        for name, variable in checkpoint.variables.items():
            number = self.number(name)
            if number is not None:
                found.setdefault(number, []).append(variable)
        return dict(sorted(found.items()))


class PatternScheme(Scheme):
    """Layers by a pattern of their variables' names.

    Args:
        name: of a row of the table, or the user's pattern itself.
        pattern: of the variables of layer {K}.
        option: by which the user gave it, for messages.

    Raises:
        UsageError: the pattern has not exactly one {K} or {_K}.
    """

    def __init__(self, name: str, pattern: str, option: str = "--scheme") -> None:
        if pattern.count("{K}") + pattern.count("{_K}") != 1:
            raise UsageError(
                f"{option} {pattern}: no such scheme, and as a pattern it needs {{K}} once",
                expected=f"{', '.join(known for known, _ in KNOWN)}, or a pattern like 'tower/{{K}}/**'",
            )
        self.name = name
        self.pattern = pattern
        self.expression = compile_pattern(pattern)
        self.group = 1 + [token[-1] == "}" for token in TOKENS.findall(pattern)].index(True)  # the number's

    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs; None if to none."""
        match = self.expression.fullmatch(name)
        return None if match is None else int(match[self.group].lstrip("_") or 0)


class TableScheme(Scheme):
    """Layers by what the container says of each variable.

    Args:
        name: of the numbering.
        table: variable's name -> number of its layer.
        owners: slot's name -> its variable's; a slot belongs to its variable's layer.
    """

    def __init__(self, name: str, table: dict[str, int], owners: dict[str, str]) -> None:
        self.name = name
        self._numbers = {slot: table[owner] for slot, owner in owners.items() if owner in table} | table

    def number(self, name: str) -> int | None:
        """The layer to which a variable's name belongs; None if to none."""
        return self._numbers.get(name)


def fitting(checkpoint: Checkpoint) -> list[Scheme]:
    """The known schemes that name at least one layer of a checkpoint, and the container's own."""
    names = checkpoint.variables
    joined = "\n" + "\n".join(names)
    fit: list[Scheme] = []
    for name, pattern in KNOWN:
        # Its start is looked for first: to compile a pattern takes longer than a small `ls`.
        if "\n" + TOKENS.split(pattern, 1)[0] in joined:
            scheme = PatternScheme(name, pattern)
            if any(scheme.number(each) is not None for each in names):
                fit.append(scheme)
    return fit + [scheme for scheme in _own(checkpoint) if any(scheme.number(name) is not None for name in names)]


def inferred(checkpoint: Checkpoint) -> list[Scheme]:
    """The schemes that the names of a checkpoint suggest, each called by its pattern; slots suggest none."""
    from .inference import candidates

    left_out = optimizer_variables(checkpoint)
    names = (name.partition(_OBJECT_VALUE)[0] for name in checkpoint.variables if name not in left_out)
    weights = f"{_WEIGHTS}/"
    patterns = candidates(name for name in names if weights not in name and OBJECT_SLOT not in name)
    return [PatternScheme(pattern, pattern) for pattern in patterns]


def find(checkpoint: Checkpoint, pattern: str | None = None, option: str = "--scheme") -> Scheme:
    """The scheme by which a checkpoint names its layers.

    Args:
        checkpoint: whose names decide.
        pattern: the user's choice, a scheme's name or a pattern; without it the one that fits, known or of the
            container, or else the one that the names suggest.
        option: that chooses it, for messages.

    Raises:
        UsageError: none fits, or several do.
    """
    if pattern is not None:
        scheme = _named(checkpoint, pattern, option)
        if not scheme.layers(checkpoint):
            raise UsageError(f"no variable fits {option} {pattern}", path=checkpoint.path)
        return scheme
    fit = fitting(checkpoint) or inferred(checkpoint)
    fit = [scheme for scheme in fit if scheme.name == STORED] or fit  # whoever streamed it has chosen already
    if not fit:
        example = next((name for name in checkpoint.variables if DIGITS.search(name)), None)
        hint = f"name them with {option}, for instance 'tower/{{K}}/**'"
        raise UsageError("its names fit no known scheme of layers", path=checkpoint.path, found=example, hint=hint)
    if len(fit) > 1:
        shown = [scheme.name for scheme in fit[:_MOST_SHOWN]]
        shown += [f"{len(fit) - _MOST_SHOWN} more"] if len(fit) > _MOST_SHOWN else []
        found = f"{', '.join(shown[:-1])} and {shown[-1]}"
        raise UsageError("several schemes of layers fit", path=checkpoint.path, found=found, hint=f"choose by {option}")
    return fit[0]


def _named(checkpoint: Checkpoint, text: str, option: str) -> Scheme:
    pattern = dict(KNOWN).get(text)
    if pattern is None:
        for scheme in _own(checkpoint):
            if scheme.name == text:
                return scheme
    return PatternScheme(text, pattern or text, option)


def _own(checkpoint: Checkpoint) -> list[Scheme]:
    """The container's own numberings."""
    tables = checkpoint.layer_tables()
    owners = slots(checkpoint) if tables else {}
    return [TableScheme(name, table, owners) for name, table in tables.items()]


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
        span = re.fullmatch(r"(\d{1,18})(-(\d{0,18}))?|-(\d{1,18})|all", item)
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
    halves = re.fullmatch(r"(\d{1,18}):(\d{1,18})", item)
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

    A slot is told by its name and by having its variable's shape, or by what the container says.
    """
    variables = checkpoint.variables
    found: dict[str, str] = {}
    for name, variable in variables.items():
        for candidate in _possible_owners(name):
            owner = variables.get(candidate)
            if owner is not None and owner.shape == variable.shape:
                found[name] = candidate
                break
    said = {slot: owner for slot, owner in checkpoint.slot_owners().items() if slot in variables and owner in variables}
    return found | said


def _possible_owners(name: str) -> Iterable[str]:
    """The names of variables whose slot a name could be, the likeliest first."""
    base, slash, suffix = name.rpartition("/")
    if OBJECT_SLOT in name:
        variable = name[: name.index(OBJECT_SLOT)]
        return (variable, variable + name[name.rindex(_OBJECT_VALUE) :]) if _OBJECT_VALUE in name else (variable,)
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
    """A slot's name less its last component, and what of that may be the name of the variable.

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
    """The names of all that belongs to an optimizer: slots, and its own variables.

    These are beta1_power and beta2_power, wherever they stand, `training/<optimizer>/…` of tf.estimator, and what
    lies in the folder of an object-based or Keras optimizer, less the model's weights that it may hold. A variable
    learning_rate outside these, global_step and save_counter stay the model's.
    """
    variables = checkpoint.variables
    owners = slots(checkpoint)
    folders = set(_OPTIMIZERS)
    for name in variables:
        if OBJECT_SLOT in name:  # <variable>/.OPTIMIZER_SLOT/<optimizer>/<slot>
            path = name.partition(OBJECT_SLOT)[2].partition(_OBJECT_VALUE)[0]
            folders.add(path.rpartition("/")[0] + "/")
        else:
            path, mark, _ = name.rpartition("/_iterations")
            if mark and path:
                folders.add(path + "/")
    starts = tuple(folders - {"/"})
    found = set(owners)
    for name, variable in variables.items():
        parts = name.partition(_OBJECT_VALUE)[0].split("/")
        if parts[-1] in _NEVER or name in found:
            continue
        if (
            (not variable.shape and _POWER.fullmatch(parts[-1]))
            or _TRAINING.fullmatch(name)
            or (name.startswith(starts) and _WEIGHTS not in parts)
        ):
            found.add(name)
    return found


def role(rest: str) -> str | None:
    """What a variable is to its layer, by the end of its name: "kernel", "bias", or None where the name does not say.

    Frameworks call the same thing by different names; variables whose names differ pair by it.
    """
    parts = rest.rsplit("/", 2)
    return _ROLES.get(parts[-1].rpartition(".")[2]) or _ROLES.get("/".join(parts[-2:]))


def slots_by_variable(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The slots of each variable that has some."""
    owners: dict[str, list[str]] = {}
    for slot, owner in slots(checkpoint).items():
        owners.setdefault(owner, []).append(slot)
    return owners
