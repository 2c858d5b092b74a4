"""Counts steps instead of seconds: whether work grows in proportion to its input does not depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_FEW = 2000  # steps that no proportion is asked of: imports of what is used first, tables that are filled once


def count(work: Callable[[], object]) -> int:
    """Return how many lines of Python run in `work`, the standard library's among them."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def growth(prepare: Callable[[int], Callable[[], object]], size: int) -> tuple[int, int, int]:
    """Return the steps that work on inputs of `size`, twice and four times that size takes.

    Args:
        prepare: makes the input of a size, and returns the work on it.
        size: of the smallest input, large enough for its steps to outnumber the constant ones.

    Raises:
        AssertionError: the steps grow faster than the input. From 2n to 4n, linear work gains twice what it gains
            from n to 2n, and quadratic work four times as much.
    """
    prepare(4 * size)()  # what is imported, compiled or cached once is not counted
    one, two, four = (count(prepare(factor * size)) for factor in (1, 2, 4))
    assert four - two <= 2.5 * max(two - one, 0) + _FEW, f"steps for n, 2n and 4n: {one}, {two}, {four}"
    return one, two, four
