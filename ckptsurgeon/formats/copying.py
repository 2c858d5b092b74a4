"""Copies checkpoints file by file; the last rename makes the copy visible. Independent of the format."""

from __future__ import annotations

import contextlib
import os
import re
from contextlib import ExitStack

from .. import errors
from ..checkpoint import CHUNK, Checkpoint
from ..errors import CkptSurgeonError, RefusedError
from ..publish import (
    NO_LINKS,
    Lock,
    Staging,
    overtaken,
    staging_lock,
    sync_after_commit,
    write_file,
    write_whole,
)
from ..source import is_file, is_taken, open_source
from .files import sets
from .files.replacing import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

    if not is_taken(out):
        return replace(out, fill, None, sync, wait)
    if not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    with Lock(out, wait) as lock:
        return replace(out, fill, lock, sync, wait)


def copy_meta(checkpoint: Checkpoint, out: str, sync: bool) -> list[str]:
    """Copy the `.meta` file that TensorFlow 1 writes next to a checkpoint, if there is one.

    Returns:
        A warning if it could not be copied: the checkpoint's own files are in place.
    """
    meta = checkpoint.main_file.removesuffix(".index") + ".meta"
    warnings: list[str] = []
    try:
        with errors.files(meta):
            if is_file(meta):
                with open_source(meta) as file:
                    write_file(out + ".meta", chunks_of(file), sync, warnings)
    except CkptSurgeonError as error:
        warnings.append(f"{out}: copied, but not the .meta file next to it: {error}")
    return warnings


def copy_set(
    checkpoint: Checkpoint, files: list[str], out: str, sync: bool, wait: float, hint: str | None
) -> list[str]:
    """Copy the files of a set under names derived from OUT, and its index last, which completes the checkpoint.

    Args:
        checkpoint: open.
        files: the files with values; the checkpoint's main file may be one of them.
        out: the main file of the copy.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer of the set.
        hint: the error's hint if `out` is not a valid name for such a set.

    Returns:
        Warnings.

    Raises:
        RefusedError: a file of the copy already exists, or `out` is not a valid name for a set of this kind.
    """
    new = _names(checkpoint, files, out, hint)
    folder = os.path.dirname(out)
    parts: dict[str, bytes | Iterator[bytes]] = {
        os.path.join(folder, name): chunks_of(checkpoint.file(source))
        for source, name in zip(files, new.values(), strict=True)
    }
    if checkpoint.main_file not in files:
        parts[out] = _index(checkpoint.file(checkpoint.main_file), new)
    warnings: list[str] = []
    staged: list[tuple[str, str]] = []
    staging = Staging(sync)
    # One lock for the whole set, under a name of its own: each file's staged name is the second link to a file that a
    # crash may leave, and by which the next run knows it.
    with errors.files(out), staging_lock(f"{out}.ckptsurgeon-tmp.set", wait) as own, ExitStack() as stack:
        staging.made(own.path, own.status)
        try:
            _remove_killed([*parts])
            for path in parts:
                if is_taken(path):
                    what = "exists already, and no single rename replaces a set of files"
                    raise RefusedError(what, path=path, hint="choose another name")
            for path, data in parts.items():
                staged.append((_stage(stack, staging, path, data, sync, wait), path))
            for at, (temporary, path) in enumerate(staged, 1):
                if at == len(staged):
                    staging.sync(folder or ".")  # a power cut must not leave the last file without the others
                _publish(staging, temporary, path)
            staging.keep([path for _, path in staged])  # the last one completes the set: the commit
            sync_after_commit(staging, out, warnings)
        finally:
            staging.undo()
    return warnings


def _remove_killed(paths: list[str]) -> None:
    """Remove what a killed copy left of a set whose last file is missing: files that are links to staged ones."""
    if is_taken(paths[-1]):
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), os.lstat(f"{path}.ckptsurgeon-tmp")):
                os.unlink(path)


def _stage(
    stack: ExitStack, staging: Staging, path: str, data: bytes | Iterable[bytes], sync: bool, wait: float
) -> str:
    """Write one file of a set under its temporary name, which is returned; it is locked until the stack ends."""
    temporary = f"{path}.ckptsurgeon-tmp"
    with errors.files(path):
        own = stack.enter_context(staging_lock(temporary, wait))
        staging.made(temporary, own.status)
        write_whole(own.fd, data, sync)
    return temporary


def _publish(staging: Staging, temporary: str, path: str) -> None:
    """Give a staged file its final name, where nothing may be replaced."""
    try:
        staging.link(temporary, path)
    except FileExistsError:
        raise overtaken(path) from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        staging.move(temporary, path)


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
