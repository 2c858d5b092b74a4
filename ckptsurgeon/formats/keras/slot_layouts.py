"""The order in which each optimizer of Keras stores its slots. Pure.

    scalars: iteration, learning rate
    blocks before: averages of all weights, then accumulated gradients of all weights
    weight by weight: what the optimizer's class keeps, for instance momentum and velocity of the first weight, then
        those of the second
    blocks after: further kinds, each for all weights
    scalars at the end

Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Shape = tuple[int, ...]
    Kinds = tuple[str, ...]

AVERAGE, ACCUMULATOR = "average", "gradient_accumulator"
ADAFACTOR, MUON = "adafactor", "muon"

# Class in small letters -> kinds stored weight by weight, and kinds that may follow in blocks.
_PAIR = (("momentum", "velocity"), ())
_TABLE: dict[str, tuple[Kinds, Kinds]] = {
    "adam": (("momentum", "velocity"), ("velocity_hat",)), "adamw": (("momentum", "velocity"), ("velocity_hat",)),
    "nadam": _PAIR, "lamb": _PAIR, "schedulefreeadamw": _PAIR, "adamax": (("momentum", "norm"), ()),
    "sgd": (("momentum",), ()), "lion": (("momentum",), ()), "adagrad": (("accumulator",), ()),
    "rmsprop": (("velocity",), ("momentum", "average_gradient")),
    "adadelta": (("accumulated_grad", "accumulated_delta_var"), ()), "ftrl": (("accumulator", "linear"), ()),
    ADAFACTOR: ((ADAFACTOR,), ()), MUON: ((MUON,), ()),
}  # fmt: skip
_OPTIONS = {"velocity_hat": "amsgrad", "momentum": "momentum", "average_gradient": "centered"}  # of blocks after
_LOSS_SCALE = "lossscaleoptimizer"
WRAPPED = "inner_optimizer"


class Layout:
    """One possible order of an optimizer's variables.

    Attributes:
        scalars: number of scalars at the beginning.
        before: kinds of which the slots of all weights come first.
        together: kinds stored weight by weight, or `ADAFACTOR` or `MUON`, which depend on the weight.
        after: kinds of which the slots of all weights follow.
        last: number of scalars at the end.
    """

    __slots__ = ("after", "before", "last", "scalars", "together")

    def __init__(self, scalars: int, before: Kinds, together: Kinds, after: Kinds, last: int) -> None:
        self.scalars, self.before, self.together, self.after, self.last = scalars, before, together, after, last

    @property
    def each(self) -> int | None:
        """Number of slots of a weight; None if it depends on the weight."""
        if self.together in ((ADAFACTOR,), (MUON,)):
            return None
        return len(self.before) + len(self.together) + len(self.after)

    def slots_of(self, shape: Shape, has_two: bool | None) -> list[list[tuple[str, Shape]]]:
        """Return what may be stored together for a weight: kinds and shapes, in order; no kind for what is no slot.

        Args:
            shape: of the weight.
            has_two: of a matrix that Muon trains, whether it is treated as by Adam; None if unknown.
        """
        if self.together == (ADAFACTOR,):
            velocity = ("velocity", shape)
            if len(shape) < 2:  # Keras 3 has two scalars that hold nothing
                return [[("", ()), ("", ()), velocity], [velocity]]
            return [[("r", shape[:-1]), ("c", shape[:-2] + shape[-1:]), velocity]]
        if self.together == (MUON,):
            one = [("momentum", shape)]
            two = [*one, ("velocity", shape)]
            if len(shape) != 2 or has_two:
                return [two]
            return [one] if has_two is False else [one, two]
        return [[(kind, shape) for kind in self.together]]


class Optimizer:
    """What a file tells about an optimizer.

    Args:
        name: the optimizer's own name; its class's name, unless the user chose another.
        config: its configuration, if the container has it: class name and options.

    Attributes:
        options: the options; empty if unknown.
        kind: the class in small letters; None if unknown.
        is_wrapper: whether it scales the loss for another optimizer, whose variables follow its own.
    """

    def __init__(self, name: str | None, config: object = None) -> None:
        told = config if isinstance(config, dict) else {}
        options, given = told.get("config"), told.get("class_name")
        self.options: dict[str, object] = options if isinstance(options, dict) else {}
        kind = _small(given if isinstance(given, str) else (name or ""))
        self.is_wrapper = kind == _LOSS_SCALE
        self.kind = kind if kind in _TABLE else None

    def layouts(self) -> Iterator[Layout]:
        """Yield the orders in which its variables may be stored."""
        known = self.options if "use_ema" in self.options else None
        for kind in [self.kind] if self.kind else _TABLE:
            together, after = _TABLE[kind]
            groups = [(together, each) for each in _choices(after, known and self._blocks(after))]
            groups += [((), ())] if kind == "sgd" else []  # without momentum
            for before in _choices((AVERAGE, ACCUMULATOR), known and self._before()):
                for each in groups:
                    for scalars in (2, 1):
                        for last in (1, 0) if kind == "nadam" else (0,):
                            if before or each[0]:
                                yield Layout(scalars, before, *each, last)

    def _before(self) -> Kinds:
        averages = (AVERAGE,) if self.options["use_ema"] else ()
        return averages + ((ACCUMULATOR,) if self.options.get("gradient_accumulation_steps") else ())

    def _blocks(self, after: Kinds) -> Kinds:
        return tuple(kind for kind in after if self.options.get(_OPTIONS[kind]))


def _choices(kinds: Kinds, known: Kinds | dict[str, object] | None) -> list[Kinds]:
    """Return the known choice among kinds, or all of them."""
    if isinstance(known, tuple):
        return [known]
    found: list[Kinds] = [()]
    for kind in kinds:
        found += [(*each, kind) for each in found]
    return found


def _small(name: str) -> str:
    """Return the name of a class, or the name that Keras derives from it, in small letters without counter."""
    return "".join(letter for letter in name[:100].lower() if letter.isalpha())
