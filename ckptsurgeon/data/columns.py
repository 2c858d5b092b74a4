"""What the columns of csv and parquet files have in common: their names, and the words for a bad one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import RefusedError, UsageError, did_you_mean
from .target import as_number, is_value

TEXT_HINT = "encode text as numbers, for example one column of 0 and 1 per value, or remove the column"

_MISSING = {"na", "n/a", "nan", "null", "none", "?", "-"}  # how files spell a missing value


def check_names(names: Sequence[str], target: str) -> None:
    """Check that the columns have different names, and that one of several is the target.

    Raises:
        UsageError: there is no such target.
        RefusedError: two columns have the same name, or the target is the only column.
    """
    if names.count(target) != 1:
        if target in names:
            raise RefusedError(f"two columns are named {target!r}")
        hint = did_you_mean(target, names) or f"the columns are {', '.join(names)}"
        separator = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if separator is not None:
            hint = f"separate the columns with commas, not {separator!r}"
        raise UsageError(f"there is no column {target!r}", hint=hint)
    check_different(names)
    if len(names) < 2:
        raise RefusedError(f"the only column is the target {target!r}")


def check_different(names: Sequence[str]) -> None:
    """Refuse two columns of the same name.

    Raises:
        RefusedError: there are two.
    """
    counts = Counter(names)
    twice = next((name for name in names if counts[name] > 1), None)
    if twice is not None:
        raise RefusedError(f"two columns are named {twice!r}")


def check_number(text: str, place: str) -> None:
    """Refuse the text of a feature that is not a finite number.

    Args:
        text: as it stands in the file.
        place: the line and the column, for the message.

    Raises:
        RefusedError: it is empty, a missing value, text, or not finite as float32.
    """
    value, bare = as_number(text), text.strip()
    if is_value(value):
        return
    if not bare:
        raise RefusedError(f"{place} is empty", hint="fill it in, or remove the row")
    if value is not None:
        raise RefusedError(f"{place} is not finite as float32", found=value)
    if bare.lower() in _MISSING:
        hint = "fill in missing values, or remove their rows"
    elif as_number(bare.replace(",", ".", 1)) is not None:
        hint = "write a point instead of the decimal comma"
    elif as_number(bare.replace("_", "")) is not None:
        hint = "write it without underscores"
    else:
        hint = TEXT_HINT
    raise RefusedError(f"{place} is not a number", found=repr(text[:40]), hint=hint)
