"""Copies checkpoints file by file; the last rename makes the copy visible. Independent of the format."""

from __future__ import annotations

import os
import re

from .. import errors
from ..checkpoint import CHUNK, Checkpoint
from ..errors import RefusedError
from ..publish import Lock, remove, write_file
from ..source import open_source
from .files import sets
from .files.replacing import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..source import Source
    from .files.replacing import Output


_KERAS_INDEX = ".weights.json"
_NUMBERED = re.compile(r"-[0-9]{5}-of-[0-9]{5}(?:\.[^.]+)?\.[^.]+\Z")  # end of a file's name in a set without an index


def copy_file(checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Copy a checkpoint that is one file, all checksums of which were verified.

    Returns:
        Warnings.

    Raises:
        RefusedError: `out` already exists, and `force` is not set.
        StorageError: the operating system refused; an old checkpoint is unharmed.
    """

    def fill(output: Output) -> None:
        for chunk in chunks_of(checkpoint.file(checkpoint.main_file)):
            output.write(chunk)

    if not os.path.lexists(out):
        return replace(out, fill, None, sync, wait)
    if not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    with Lock(out, wait) as lock:
        return replace(out, fill, lock, sync, wait)


def copy_meta(checkpoint: Checkpoint, out: str, sync: bool) -> list[str]:
    """Copy the `.meta` file that TensorFlow 1 writes next to a checkpoint, if there is one."""
    meta = checkpoint.main_file.removesuffix(".index") + ".meta"
    if os.path.isfile(meta):
        with errors.files(meta), open_source(meta) as file:
            write_file(out + ".meta", chunks_of(file), sync)
    return []


def is_gone(path: str) -> bool:
    """Remove a staged file, and return whether it is gone."""
    try:
        remove(path)
    except OSError:  # the copy is complete nevertheless
        return False
    return True


def copy_set(checkpoint: Checkpoint, files: list[str], out: str, sync: bool, hint: str | None) -> list[str]:
    """Copy the files of a set under names derived from OUT, and its index last, which completes the checkpoint.

    Args:
        checkpoint: open.
        files: the files with values; the checkpoint's main file may be one of them.
        out: the main file of the copy.
        sync: wait until everything is on the disk.
        hint: the error's hint if `out` is not a valid name for such a set.

    Returns:
        Warnings.

    Raises:
        RefusedError: a file of the copy already exists, or `out` is not a valid name for a set of this kind.
    """
    new = _names(checkpoint, files, out, hint)
    paths = [os.path.join(os.path.dirname(out), name) for name in new.values()]
    taken = next((path for path in [*paths, out] if os.path.lexists(path)), None)
    if taken is not None:
        what = "exists already, and no single rename replaces a set of files"
        raise RefusedError(what, path=taken, hint="choose another name")
    written: list[str] = []
    try:
        for source, path in zip(files, paths, strict=True):
            written.append(path)
            write_file(path, chunks_of(checkpoint.file(source)), sync)
        if checkpoint.main_file not in files:
            written.append(out)
            write_file(out, _index(checkpoint.file(checkpoint.main_file), new), sync)
    except BaseException:
        for path in reversed(written):
            is_gone(path)
        raise
    return []


def _names(checkpoint: Checkpoint, files: list[str], out: str, hint: str | None) -> dict[str, str]:
    """Map the names of a set's files to the names of their copies.

    Raises:
        RefusedError: OUT is not a valid name for a set of this kind.
    """
    main, old = os.path.basename(checkpoint.main_file), [os.path.basename(each) for each in files]
    ending = _KERAS_INDEX if main.endswith(_KERAS_INDEX) else sets.index_ending(main)
    if ending and os.path.basename(out).endswith(ending) and os.path.basename(out) != ending:
        before, after = main.removesuffix(ending), os.path.basename(out).removesuffix(ending)
        if all(name.startswith(before) for name in old):
            return {name: after + name[len(before) :] for name in old}
        return {name: name for name in old}
    one, other = (re.search(_NUMBERED, name) for name in (old[0], os.path.basename(out)))
    if not ending and one and other and one[0] == other[0]:
        after = os.path.basename(out)[: other.start()]
        return {name: after + name[one.start() :] for name in old}
    raise RefusedError(
        "a checkpoint of several files, whose copy is a set too",
        path=checkpoint.path,
        expected=f"a name like OUT{ending or (one[0] if one else '')}",
        hint=hint,
    )


def _index(file: Source, new: dict[str, str]) -> bytes:
    """The text of an index with the new names of its files; as it stands if these are the old ones."""
    data = b"".join(chunks_of(file))
    if all(name == other for name, other in new.items()):
        return data
    import json

    index = json.loads(data)
    for name, files in index["weight_map"].items():
        moved = [new[each] for each in files] if isinstance(files, list) else new[files]
        index["weight_map"][name] = moved
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def chunks_of(file: Source) -> Iterator[bytes]:
    """The bytes of an open file, CHUNK at a time: those that were checked, whatever the path leads to by now."""
    at = 0
    with errors.files(file.path):
        while chunk := file.read(at, CHUNK):
            at += len(chunk)
            yield chunk
