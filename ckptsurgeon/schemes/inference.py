"""Guesses layer schemes from names: the outermost numbered folders. Pure; knows no checkpoint."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# A folder's name that ends in a number. Longer numbers are hashes or dates, not layers.
_NUMBERED = re.compile(r"(.*[^0-9]|)([0-9]{1,9})", re.DOTALL)
_TRUE_NUMBER = re.compile(r"[1-9][0-9]*")  # as {_K} wants it: no 0, no leading zeros

# What a pattern cannot spell literally.
_SPECIAL = re.compile(r"\*|\?|\{K\}|\{_K\}")

# Names come from files, and every folder on the way to a variable is kept: both are bounded.
_MOST_FOLDERS = 32
_LONGEST_NAME = 4096


def candidates(names: Iterable[str]) -> list[str]:
    """The patterns of layers that names suggest.

    A candidate is a folder's name that is there with at least two different numbers at its end, in one place:
    `tower/block_{K}/**` for tower/block_0/… and tower/block_1/…, `dense{_K}/**` for dense/… and dense_1/….
    What lies inside a candidate is not looked at. Names without a slash have their folders between dots.

    Args:
        names: of variables that may belong to a layer; slots and the optimizer's own are left out by the caller.

    Returns:
        Patterns, sorted; each gives at least two layers.
    """
    found = []
    for separator, inside in _folders(names).items():
        waiting = [""]
        while waiting:
            place = waiting.pop()
            children = inside.get(place, ())
            stems = _stems(children)
            taken = {child for members in stems.values() for child in members}
            found += [f"{place}{stem}{separator}**" for stem in stems if not _SPECIAL.search(place)]
            waiting += [f"{place}{child}{separator}" for child in children if child not in taken]
    return sorted(found)


def _folders(names: Iterable[str]) -> dict[str, dict[str, set[str]]]:
    """The folders in which variables lie: separator -> path of a folder, separator included -> the folders in it."""
    inside: dict[str, dict[str, set[str]]] = {"/": {}, ".": {}}
    seen = set()
    for name in names:
        if len(name) > _LONGEST_NAME:
            continue
        separator = "/" if "/" in name else "."
        folder = name.rpartition(separator)[0]
        if not folder or (separator, folder) in seen:
            continue
        seen.add((separator, folder))
        path = ""
        for part in folder.split(separator, _MOST_FOLDERS)[:_MOST_FOLDERS]:
            inside[separator].setdefault(path, set()).add(part)
            path += part + separator
    return inside


def _stems(folders: Iterable[str]) -> dict[str, list[str]]:
    """The candidates among the folders of one place: their name with {K} or {_K} in it -> the folders they mean."""
    there = set(folders)
    numbered: dict[str, dict[str, str]] = {}
    for folder in there:
        match = _NUMBERED.fullmatch(folder)
        if match is not None and not _SPECIAL.search(match[1]):
            numbered.setdefault(match[1], {})[folder] = match[2]
    found = {}
    for stem, members in numbered.items():
        first = stem[:-1]  # what the first of dense, dense_1, dense_2 is called
        counted = first and stem.endswith("_") and first in there and all(map(_TRUE_NUMBER.fullmatch, members.values()))
        if counted:
            found[first + "{_K}"] = [first, *members]
        elif len({int(number) for number in members.values()}) > 1:
            found[stem + "{K}"] = list(members)
    return found
