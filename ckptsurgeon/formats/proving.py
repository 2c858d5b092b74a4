"""Opens a staged result before it is published, and compares it with its plan."""

from __future__ import annotations

from ..errors import CkptSurgeonError, DamagedError, StorageError
from . import payload, table
from .format import Found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..plan import Result

    Form = tuple[str, tuple[int, ...]]


def prover(format: str, results: Iterable[Result], path: str, named: bool = True) -> Callable[[str], None]:
    """Return a function that checks a staged file: it opens, and holds these results.

    Args:
        format: the name of its row in the table.
        results: of the plan.
        path: under which the file will be published, for messages.
        named: whether the file holds the variables' names.

    Returns:
        A function of the staged file's path. It raises DamagedError if the file is not what was planned, StorageError
        if the operating system refuses to read it.
    """
    expected = {payload.name_of(each): (each.variable.dtype, tuple(each.variable.shape)) for each in results}

    def prove(staged: str) -> None:
        try:
            with table.of(format).open(Found(format, staged, [staged])) as checkpoint:
                found = {each.name: (each.dtype, tuple(each.shape)) for each in checkpoint.variables.values()}
        except StorageError:
            raise
        except CkptSurgeonError as error:
            what = f"the result cannot be read back ({error.what}); nothing was changed"
            raise DamagedError(what, path=path) from error
        if found != expected if named else sorted(found.values()) != sorted(expected.values()):
            raise DamagedError(
                "the result is not what was planned; nothing was changed", path=path, **_first(expected, found)
            )

    return prove


def _first(expected: dict[str, Form], found: dict[str, Form]) -> dict[str, str]:
    """The first difference, for an error."""
    name = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    return {key: f"{name} {form.get(name, 'absent')}" for key, form in (("expected", expected), ("found", found))}
