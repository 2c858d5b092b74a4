"""Parses ranges of layers such as `0-2,5-,-1`."""

from __future__ import annotations

from ..errors import CkptSurgeonError, UsageError, check
from ..names import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


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
        begin, dash, end = item.partition("-")
        if item == "all":
            chosen.update(numbers)
        elif not all(is_number(each) for each in (begin, end) if each) or not (begin or end):
            problems.append(_bad_range(item))
        elif not begin:
            back = int(end)
            if 1 <= back <= len(numbers):
                chosen.add(numbers[-back])
            else:
                problems.append(UsageError(f"no layer {item} from the end", path=path, expected=f"one of {there}"))
        else:
            first = int(begin)
            last = int(end) if end else max(numbers, default=first) if dash else first
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
    begin, _, end = item.partition(":")
    if is_number(begin) and is_number(end) and int(end) > int(begin):
        first, last = int(begin), int(end) - 1
        meant = f"{first}-{last}" if last > first else f"{first}"
        return UsageError(f"invalid --layers {item}", hint=f"did you mean {meant} (inclusive)")
    return UsageError(f"invalid --layers {item or repr(item)}", expected="N, N-M, N-, -N or all, joined by commas")


def _spans(numbers: Sequence[int]) -> str:
    """Numbers as a person writes them: 0-4, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in spans) or "none"
