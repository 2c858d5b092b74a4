"""Parts of the standard library without what their public modules bring along.

`ls` takes little more time than Python takes to start. contextlib, functools, signal and collections.abc import
collections, enum, operator, …: together they would take longer than all that `ls` does.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
    from collections.abc import Callable, Hashable, Iterable
    from collections.abc import Mapping as Mapping
    from functools import partial as partial
    from types import TracebackType
    from typing import TypeVar

    Key = TypeVar("Key", bound=Hashable)
    Value = TypeVar("Value")
else:
    try:  # where CPython keeps what its public modules hand on
        import _signal as signal
        from _collections_abc import Mapping as Mapping
        from _functools import partial as partial
    except ImportError:
        import signal as signal
        from collections.abc import Mapping as Mapping
        from functools import partial as partial


class suppress:
    """A context manager that ends a block at these errors, as contextlib's does."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, self._errors)


class nullcontext:
    """A context manager that does nothing."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def prod(numbers: Iterable[int]) -> int:
    """The product of integers, 1 without any."""
    product = 1
    for number in numbers:
        product *= number
    return product


def remembered(function: Callable[[Key], Value], most: int) -> Callable[[Key], Value]:
    """A function that keeps its results, and forgets all of them when there are more than `most`."""
    return _Results(function, most).__getitem__


class _Results(dict["Key", "Value"]):
    def __init__(self, function: Callable[[Key], Value], most: int) -> None:
        super().__init__()
        self._function, self._most = function, most

    def __missing__(self, key: Key) -> Value:
        value = self._function(key)
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value
