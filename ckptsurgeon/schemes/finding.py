"""Finds the naming scheme of a checkpoint: chosen by the user, known, the container's own, or inferred from names."""

from __future__ import annotations

from ..checkpoint import STORED
from ..errors import UsageError
from ..names import ATTRIBUTES, DIGITS, OBJECT_SLOT, beginning
from .known import KNOWN
from .optimizers import WEIGHTS, optimizer_variables, slots
from .scheme import PatternScheme, Scheme, TableScheme

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

_MOST_SHOWN = 6  # candidates in one line


def fitting(checkpoint: Checkpoint) -> list[Scheme]:
    """The known schemes that name at least one layer of a checkpoint, and the container's own."""
    names = checkpoint.variables
    joined = "\n" + "\n".join(names)
    fit: list[Scheme] = []
    for name, pattern in KNOWN:
        # Look for its literal start first: to match all names takes longer.
        if "\n" + beginning(pattern) in joined:
            scheme = PatternScheme(name, pattern)
            if any(scheme.number(each) is not None for each in names):
                fit.append(scheme)
    return fit + [scheme for scheme in _own(checkpoint) if any(scheme.number(name) is not None for name in names)]


def inferred(checkpoint: Checkpoint) -> list[Scheme]:
    """The schemes that the names of a checkpoint suggest, each named by its pattern; slots are ignored."""
    from .inference import candidates

    left_out = optimizer_variables(checkpoint)
    names = (name.partition(ATTRIBUTES)[0] for name in checkpoint.variables if name not in left_out)
    weights = f"{WEIGHTS}/"
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
        UsageError: no scheme fits, or several do.
    """
    if pattern is not None:
        scheme = _named(checkpoint, pattern, option)
        if not scheme.layers(checkpoint):
            raise UsageError(f"no variable fits {option} {pattern}", path=checkpoint.path)
        return scheme
    fit = fitting(checkpoint) or inferred(checkpoint)
    fit = [scheme for scheme in fit if scheme.name == STORED] or fit  # chosen when the checkpoint was streamed
    if not fit:
        example = next((name for name in checkpoint.variables if set(DIGITS) & set(name)), None)
        hint = f"name them with {option}, for instance 'tower/{{K}}/**'"
        raise UsageError("no known layer scheme matches its names", path=checkpoint.path, found=example, hint=hint)
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
