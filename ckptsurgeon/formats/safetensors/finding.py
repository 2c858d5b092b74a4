"""Finds safetensors checkpoints: a file, a set `<stem>-?????-of-?????.safetensors`, or the files of an index or folder.

Folders follow the Hugging Face layout. The index `<stem>.safetensors.index.json` holds `weight_map`, which maps each
variable to the file, in the folder of the index, that holds it. The hub's cache links such files to the folder `blobs`
of the same repository; no other link may lead out of the folder.
"""

from __future__ import annotations

import os
import re

from ... import errors
from ...errors import DamagedError, NotFoundError
from ...source import is_file, is_folder, is_taken, open_source
from ..files.json_scan import LONGEST, JsonScanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ENDING = ".safetensors"
INDEX = ".safetensors.index.json"
_MEMBER = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", re.DOTALL)
_LONGEST_INDEX = 1 << 28  # bytes
_MOST_FILES = 10_000
_USUAL = ("model", "diffusion_pytorch_model", "adapter_model")  # names that Hugging Face's libraries look for


def locate(path: str) -> list[str] | None:
    """The files of the safetensors checkpoint at a path: its index, if it has one, then the files with values.

    Args:
        path: a file, the index of a set, a file of a set, the name that the set would have as one file, or a folder.

    Returns:
        None if the path is not a safetensors checkpoint.

    Raises:
        DamagedError: a file of a set is missing, or the index is invalid or names a file outside its folder.
        NotFoundError: a folder holds several checkpoints.
    """
    if is_folder(path):
        return _in_folder(path)
    if path.endswith(INDEX) and is_file(path):
        return [path, *members(path, _read(path))]
    member = _MEMBER.fullmatch(path)
    if member:
        index = member[1] + INDEX
        if is_file(index):
            files = [index, *members(index, _read(index))]
            if any(_is_same(path, file) for file in files[1:]):
                return files
        return _set(member[1], int(member[3])) if is_file(path) and is_one(path) else None
    if is_file(path):
        return [path] if is_one(path) else None
    if path.endswith(ENDING) and is_file(path + ".index.json"):
        return locate(path + ".index.json")
    return None


def is_one(path: str) -> bool:
    """Whether a file is a safetensors file, by its first bytes: a length of less than 2^40, and the start of JSON."""
    with open_source(path) as file:
        head = file.read(0, 16)
    return len(head) > 8 and not any(head[5:8]) and head[8:].lstrip(b" \t\r\n")[:1] == b"{"


def weight_map(data: bytes) -> Iterator[tuple[str, str]]:
    """Parse the text of an index: each variable's name, and the file that holds it."""
    scanner = JsonScanner(data)
    found = False
    for key in scanner.object_keys():
        if key != "weight_map":
            scanner.skip()
            continue
        if found:
            raise DamagedError("damaged: an index with two weight maps")
        found = True
        for name in scanner.object_keys():
            yield name, scanner.string(LONGEST)
    scanner.end()
    if not found:
        raise DamagedError("damaged: an index without a weight map")


def members(index: str, data: bytes) -> list[str]:
    """The paths of the files that an index names, sorted by name.

    Args:
        index: path of the index.
        data: text of the index.

    Raises:
        DamagedError: the index names no files, too many, or a file that is missing or lies outside its folder.
    """
    with errors.files(index):
        names: set[str] = set()
        for _, name in weight_map(data):
            names.add(name)
            if len(names) > _MOST_FILES:
                raise DamagedError("damaged: the index names too many files", expected=f"at most {_MOST_FILES}")
        if not names:
            raise DamagedError("damaged: the index names no files")
        return [_member(os.path.dirname(index), name) for name in sorted(names)]


def _member(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not name or "\0" in name or os.path.basename(name) != name or name in (os.curdir, os.pardir):
        raise DamagedError("damaged: the index names a file outside its folder", expected="file names", found=name)
    if not is_taken(path):
        raise DamagedError(f"a file of the checkpoint is missing: {name}")
    target, home = os.path.realpath(path), os.path.realpath(folder)
    homes = [home]
    if os.path.basename(os.path.dirname(home)) == "snapshots":  # the hub's cache: snapshots/<revision>/<link>
        homes.append(os.path.join(os.path.dirname(os.path.dirname(home)), "blobs"))
    if not any(target.startswith(each.rstrip(os.sep) + os.sep) for each in homes):
        raise DamagedError(f"{name} is a link that leads out of its folder", found=target)
    return path


def _set(stem: str, count: int) -> list[str]:
    """The files of a set without an index."""
    if not 1 <= count <= _MOST_FILES:
        raise DamagedError("too many files in the set", expected=f"1 to {_MOST_FILES}", found=count)
    paths = [f"{stem}-{number:05d}-of-{count:05d}{ENDING}" for number in range(1, count + 1)]
    missing = [path for path in paths if not is_file(path)]
    if missing:
        what = f"a file of the checkpoint is missing: {missing[0]}"
        raise DamagedError(what, path=stem, expected=f"{count} files", found=count - len(missing))
    return paths


def _in_folder(folder: str) -> list[str] | None:
    """The only checkpoint of a folder, or the one with a name that Hugging Face's libraries look for."""
    for usual in _USUAL:
        for ending in (INDEX, ENDING):
            path = os.path.join(folder, usual + ending)
            if is_file(path):
                return locate(path) or [path]
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):
        member = _MEMBER.fullmatch(name)
        if member:
            found.setdefault(member[1], name)
        elif name.endswith(INDEX):
            found[name[: -len(INDEX)]] = name
        elif name.endswith(ENDING):
            found[name[: -len(ENDING)]] = name
    if len(found) > 1:
        shown = ", ".join(list(found.values())[:3])
        raise NotFoundError("a folder with several checkpoints", path=folder, hint=f"name one: {shown}")
    return locate(os.path.join(folder, *found.values())) if found else None


def _read(index: str) -> bytes:
    """The text of an index."""
    with errors.files(index), open_source(index) as file:
        size = file.size
        if size > _LONGEST_INDEX:
            raise DamagedError("too large for an index", expected=f"at most {_LONGEST_INDEX} bytes", found=size)
        return file.read(0, size)


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
