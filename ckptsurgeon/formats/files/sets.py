"""Finds sets of files, as Hugging Face's libraries write them: numbered parts, and an index of the variables in them.

    model.safetensors.index.json        {"metadata": …, "weight_map": {variable: file in the folder of the index}}
    model-00001-of-00002.safetensors    the parts; also .bin (PyTorch) and .h5 (Keras)

A set may have a variant in its names: `model.safetensors.index.fp16.json`, whose parts are called
`model.fp16-00001-of-00002.safetensors` or, by recent diffusers, `model-00001-of-00002.fp16.safetensors`. The hub's
cache links all files to the folder `blobs` of the same repository; no other link may lead out of the folder.
"""

from __future__ import annotations

import os
import re

from ... import errors
from ...errors import ChangedError, CkptSurgeonError, DamagedError, NotFoundError
from ...source import is_file, is_taken, open_source
from .json_scan import LONGEST, JsonScanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ...checkpoint import Variable
    from ...source import Source

_INDEX = re.compile(r"(.+)(\.[^.]+)\.index(?:\.[^.]+)?\.json", re.DOTALL)
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})((?:\.[^.]+)?\.[^.]+)", re.DOTALL)
_LONGEST_INDEX = 1 << 28  # bytes
_MOST_FILES = 10_000


def is_index(path: str, ending: str) -> bool:
    """Whether a path is spelled like the index of a set of files with this ending."""
    match = _INDEX.fullmatch(os.path.basename(path))
    return match is not None and match[2] == ending


def index_ending(path: str) -> str:
    """What follows the name of the set in the name of its index; "" if a path is not spelled like an index."""
    base = os.path.basename(path)
    match = _INDEX.fullmatch(base)
    return base[match.end(1) :] if match else ""


def find(path: str, ending: str, is_one: Callable[[str], bool], has_index: bool = False) -> list[str] | None:
    """The files of the checkpoint at a path that may be a set.

    Args:
        path: a file, the index of a set, a part of a set, or the name that the set would have as one file.
        ending: of the files with values, such as `.safetensors`.
        is_one: whether an existing file with values is of the format.
        has_index: only an index makes a set of files.

    Returns:
        The index, if there is one, then the files with values; None if the path is something else.

    Raises:
        DamagedError: a file of a set is missing, or the index is invalid or names a file outside its folder.
    """
    if not is_file(path):
        index = next(filter(os.path.isfile, _indexes(path, ending)), None)
        return [index, *members(index, read(index))] if index is not None else None
    if is_index(path, ending):
        return [path, *members(path, read(path))]
    if not is_one(path):
        return None
    index = index_of(path, ending)
    if index is not None:
        return [index, *members(index, read(index))]
    part = _PART.fullmatch(path)
    if part is None or not part[4].endswith(ending) or has_index:
        return [path]
    return _numbered(part[1], int(part[3]), part[4])


def usual(folder: str, stems: Iterable[str], ending: str) -> str | None:
    """The first index or file of a folder with a name that a library looks for.

    Raises:
        NotFoundError: there are both; some libraries open one of them, some the other.
    """
    for stem in stems:
        names = [name for name in (f"{stem}{ending}.index.json", stem + ending) if is_file(os.path.join(folder, name))]
        if len(names) > 1:
            raise NotFoundError("a folder with several checkpoints", path=folder, hint=f"name one: {', '.join(names)}")
        if names:
            return os.path.join(folder, names[0])
    return None


def index_of(path: str, ending: str) -> str | None:
    """The index, in the folder of a file, that names the file as a part of its set; None if there is none."""
    folder, base = os.path.split(path)
    try:
        names = sorted(name for name in os.listdir(folder or ".") if is_index(name, ending))
    except OSError:
        return None  # a folder may be closed to listing while its files are open to reading
    for name in names:
        index = os.path.join(folder, name)
        try:
            data = read(index)
            if base.encode("utf-8", "surrogateescape") in data and any(file == base for _, file in weight_map(data)):
                return index
        except CkptSurgeonError:
            if _PART.fullmatch(base):
                raise  # a part by its name, so the index may be its own
    return None


def missing_index(path: str, ending: str) -> str | None:
    """The absent index of the set that a file is a part of, by its name; None for other files."""
    part = _PART.fullmatch(path)
    if part is None or not part[4].endswith(ending) or index_of(path, ending) is not None:
        return None
    return f"{part[1]}{ending}.index{part[4][: -len(ending)]}.json"


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


def strays(index: Source, files: list[str], variables: dict[str, Variable], path: str) -> list[str]:
    """The names of variables that an open index does not list.

    Args:
        index: of the set.
        files: of the set, as they were found by its index.
        variables: of all files of the set, by name.
        path: of the checkpoint, for messages.

    Raises:
        ChangedError: the index names other files by now.
        DamagedError: the index says that a file holds a variable, and the file does not.
    """
    data = index.read(0, index.size)
    if members(index.path, data) != files:
        raise ChangedError("was replaced while it was read; try again", path=path)
    count = 0
    for name, file in weight_map(data):
        variable = variables.get(name)
        if variable is None or os.path.basename(variable.extents[0].file) != file:
            raise DamagedError(f"damaged: {file} does not hold {name[:200]}, as the index says")
        count += 1
    if count == len(variables):
        return []
    listed = {name for name, _ in weight_map(data)}
    return [name for name in variables if name not in listed]


def read(index: str) -> bytes:
    """The text of an index."""
    with errors.files(index), open_source(index) as file:
        size = file.size
        if size > _LONGEST_INDEX:
            raise DamagedError("too large for an index", expected=f"at most {_LONGEST_INDEX} bytes", found=size)
        return file.read(0, size)


def _indexes(path: str, ending: str) -> Iterator[str]:
    """The paths that the index of a set may have whose name as one file is `path`."""
    if path.endswith(ending):
        yield path + ".index.json"
        stem, dot, variant = path[: -len(ending)].rpartition(".")
        if dot:
            yield f"{stem}{ending}.index.{variant}.json"


def _member(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not name or "\0" in name or os.path.basename(name) != name or name in (os.curdir, os.pardir):
        raise DamagedError("damaged: the index names a file outside its folder", expected="file names", found=name)
    if not is_taken(path):
        raise DamagedError(f"a file of the checkpoint is missing: {name}")
    target, home = os.path.realpath(path), os.path.realpath(folder)
    if not any(target.startswith(each.rstrip(os.sep) + os.sep) for each in _homes(home)):
        raise DamagedError(f"{name} is a link that leads out of its folder", found=target)
    return path


def _homes(folder: str) -> Iterator[str]:
    """The folders that files of a set in a folder may lie in: in the hub's cache, also `blobs` of its repository."""
    yield folder
    above, name = os.path.split(folder)
    while name:  # snapshots/<revision>/…, since a repository may have folders of its own
        repository, snapshots = os.path.split(above)
        if snapshots == "snapshots":
            yield os.path.join(repository, "blobs")
        above, name = os.path.split(above)


def _numbered(stem: str, count: int, rest: str) -> list[str]:
    """The files of a set without an index."""
    if not 1 <= count <= _MOST_FILES:
        raise DamagedError("too many files in the set", expected=f"1 to {_MOST_FILES}", found=count)
    paths = [f"{stem}-{number:05d}-of-{count:05d}{rest}" for number in range(1, count + 1)]
    missing = [path for path in paths if not is_file(path)]
    if missing:
        what = f"a file of the checkpoint is missing: {missing[0]}"
        raise DamagedError(what, path=stem, expected=f"{count} files", found=count - len(missing))
    return paths
