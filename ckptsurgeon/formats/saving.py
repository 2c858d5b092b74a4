"""Checks a plan, carries it out in its recipient or as a new checkpoint, or streams it, in any format.

Formats import their writers only when something is written, to keep listings fast.
"""

from __future__ import annotations

import os

from .. import errors
from ..errors import CkptSurgeonError, StorageError
from ..plan import Copy, Elements
from ..source import is_file, kind_at, size_of
from . import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..plan import Plan
    from ..publish import Lock
    from .format import Format


_MOST_SHOWN = 4  # keys of metadata in a warning


def save(
    plan: Plan,
    *,
    lock: Lock | None = None,
    out: str | None = None,
    format: str | None = None,
    link: bool = False,
    force: bool = False,
    sync: bool = True,
    wait: float = 30.0,
) -> list[str]:
    """Carry a plan out.

    Args:
        plan: what to do.
        lock: on the recipient, from `locked`; required unless `out` is given.
        out: write a new checkpoint there instead.
        format: the new checkpoint's format, by the name of its row in the table; None: the recipient's format.
        link: share the donor's data files instead of copying from them.
        force: replace an existing checkpoint at `out`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer of `out`.

    Returns:
        Warnings.
    """
    recipient = plan.recipient
    kind = table.of(format or recipient.container)
    _check_whole(plan, kind)
    if not link:
        _check_room(plan.size(out is not None or kind.writes_whole), out or recipient.main_file)
    warnings = left_out(recipient, kind.name)
    if out is not None:
        return warnings + kind.save_as(plan, out, link, force, sync, wait)
    assert lock is not None
    return warnings + kind.save_in_place(plan, lock, link, sync, wait)


def _check_whole(plan: Plan, kind: Format | None) -> None:
    """Check that variables of which some slices are missing are only carried as they are.

    Raises:
        Problems: values of such a variable would be read, or stored in another form.
    """
    problems: list[errors.CkptSurgeonError] = []
    for result in plan.results():
        content, variable = result.content, result.variable
        stored = content.variable if isinstance(content, Copy) else variable
        if stored.is_whole and variable.is_whole:
            continue
        if isinstance(content, Copy):
            own = table.of_checkpoint(content.donor)
            alike = kind is not None and (own is kind or (own.shares_files and kind.shares_files))
            if alike and stored.slices == variable.slices:
                continue
        elif not isinstance(content, Elements):
            continue
        what = f"only some slices of {stored.name} are stored, so it can only be kept as it is"
        problems.append(errors.RefusedError(what, path=plan.recipient.path, hint="'drop --slots' removes slots"))
    errors.check(problems)


def left_out(checkpoint: Checkpoint, kind: str) -> list[str]:
    """A warning, if a checkpoint has metadata that a format cannot hold."""
    own = table.of_checkpoint(checkpoint)
    keys = [] if kind == own.name else own.own_metadata(checkpoint)
    shown = ", ".join(keys[:_MOST_SHOWN]) + (", …" if len(keys) > _MOST_SHOWN else "")
    return [f"{checkpoint.path}: its metadata ({shown}) are left out, which {kind} cannot hold"] if keys else []


def check(plan: Plan, out: str | None, format: str | None) -> None:
    """Check from the metadata whether `save` could carry a plan out.

    Args:
        plan: what to do.
        out: path of the new checkpoint; None: in the recipient.
        format: as in `save`.

    Raises:
        CkptSurgeonError: the format cannot hold the plan's result, or a single rename cannot replace the checkpoint.
    """
    kind = table.of(format or plan.recipient.container)
    _check_whole(plan, kind)
    kind.check(plan, out)


def check_binding(plan: Plan, out: str | None, format: str | None, anyway: bool) -> list[str]:
    """Check that the result of a plan can be loaded as the checkpoint could: by a SavedModel's graph, or by Keras.

    Args:
        plan: what to do.
        out: path of the new checkpoint; None: in the recipient.
        format: as in `save`.
        anyway: warn instead.

    Returns:
        Warnings.

    Raises:
        RefusedError: it cannot, and `anyway` is not set.
    """
    refusal, warnings = table.of(format or plan.recipient.container).binding(plan, out)
    if refusal is None:
        return warnings
    if not anyway:
        refusal.hint = f"{refusal.hint}, or --anyway"
        raise refusal
    refusal.hint = None
    return [str(refusal), *warnings]


def like(plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
    """Make the plan for a new file with a template's layout and names; see `Format.like`.

    Raises:
        UsageError: the template is not a Keras or HDF5 file.
    """
    found, warnings = table.of_checkpoint(template).like(plan, template)
    return found, left_out(plan.recipient, template.container) + warnings


def compact(plan: Plan, lock: Lock, sync: bool = True, wait: float = 30.0) -> list[str]:
    """Carry a plan out in its recipient and remove all bytes that no variable refers to: a bundle becomes one shard.

    Args:
        plan: changes to make at the same time.
        lock: on the recipient, from `locked`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.

    Returns:
        Warnings.
    """
    format = table.of_checkpoint(plan.recipient)
    if not (format.writes_whole and plan.changes_nothing):
        _check_room(plan.size(True), plan.recipient.main_file)
    return format.compact(plan, lock, sync, wait)


def heal(checkpoint: Checkpoint, lock: Lock, sync: bool = True, wait: float = 30.0, compact: bool = False) -> list[str]:
    """Remove what a crash left of an operation on a checkpoint, by one that has nothing to write itself.

    Args:
        checkpoint: open.
        lock: on it, from `locked`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.
        compact: also finish a `compact` that was killed.

    Returns:
        Warnings, also for what could not be removed: the checkpoint itself is sound.
    """
    try:
        return table.of_checkpoint(checkpoint).heal(checkpoint, lock, sync, wait, compact)
    except CkptSurgeonError as error:
        return [f"what an interrupted operation left could not be removed: {error}"]


def stream(plan: Plan, layers: Mapping[str, int]) -> None:
    """Write the result of a plan to stdout, as safetensors.

    Args:
        plan: what to do.
        layers: name -> number of its layer, for the metadata.

    Raises:
        UnsupportedError: safetensors cannot store a variable.
    """
    import sys

    from .safetensors import writing as safetensors_writing

    safetensors_writing.stream(plan, sys.stdout.buffer.write, layers)


def _check_room(needed: int, path: str) -> None:
    """Raise StorageError, before anything is written, if the disk does not have enough room.

    Args:
        needed: bytes.
        path: of the file to be written, or of any file in the same folder.
    """
    folder = os.path.dirname(path.rstrip(os.sep)) or "."
    with errors.files(folder):
        disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        raise StorageError("not enough room on the disk", path=folder, expected=f"{needed} bytes", found=f"{free} free")


def copy(checkpoint: Checkpoint, out: str, force: bool = False, sync: bool = True, wait: float = 30.0) -> list[str]:
    """Copy a whole checkpoint, file by file.

    Returns:
        Warnings.

    Raises:
        DamagedError: a checksum is wrong; nothing was written.
        RefusedError: `out` already exists, and `force` is not set; or a single rename cannot put all files in place.
        StorageError: the operating system refused; an old checkpoint is unharmed.
    """
    needed = 0
    for path in checkpoint.data_files or [checkpoint.main_file]:
        with errors.files(path):
            needed += size_of(path)
    _check_room(needed, out)
    for variable in checkpoint.variables.values():
        checkpoint.check(variable)
    return table.of_checkpoint(checkpoint).copy(checkpoint, out, force, sync, wait)


def write_state(out: str, sync: bool = True) -> list[str]:
    """Write a `checkpoint` file into the folder of a new checkpoint, unless the folder has one.

    Returns:
        A warning if it could not be written: the new checkpoint is in place.
    """
    from . import state

    folder = os.path.dirname(out) or "."
    try:
        with errors.files(folder):
            if kind_at(os.path.join(folder, state.NAME)):
                return []
        return state.write(folder, out, [out], sync)
    except CkptSurgeonError as error:
        return [f"{out}: written, but the folder's '{state.NAME}' file was not: {error}"]


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True) -> None:
    """Write a whole new TensorFlow V2 checkpoint; see `bundle.writing.write`."""
    from .bundle import writing as bundle_writing

    bundle_writing.write(prefix, arrays, sync)


def remove(path: str) -> None:
    """Remove all files of a single-file or TensorFlow V2 checkpoint; missing files are not an error.

    Args:
        path: the file, or the prefix.
    """
    for name in (table.STREAMED, table.DEFAULT):
        table.of(name).remove(path)


def sync(*checkpoints: str, also: Iterable[str] = ()) -> None:
    """Wait until all files of the checkpoints, and their directory entries, are on the disk.

    Args:
        checkpoints: paths of single-file checkpoints, or prefixes of TensorFlow V2 checkpoints.
        also: other files to sync at the same time.

    Raises:
        NotFoundError: a checkpoint does not exist.
    """
    from ..publish import fsync_all

    paths = list(also)
    for path in checkpoints:
        with errors.files(path):
            paths += table.of(table.STREAMED if is_file(path) else table.DEFAULT).to_sync(path)
    with errors.files(checkpoints[0]):
        fsync_all([*paths, *(os.path.dirname(path) or "." for path in paths)])
