"""What all formats can do with a plan: check it, carry it out, in its recipient or as a new checkpoint, or stream it.

Formats import their writers where something is written, so that a listing does not pay for them.
"""

from __future__ import annotations

import os

from .. import errors
from ..errors import StorageError
from ..source import size_of
from . import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..plan import Plan
    from ..publish import Lock


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
        lock: on the recipient, from `locked`; needed without `out`.
        out: write a new checkpoint there instead.
        format: of the new checkpoint, the name of its row in the table of formats; None: the recipient's.
        link: share the donor's data files instead of copying from them.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer of `out`.

    Returns:
        Warnings.
    """
    recipient = plan.recipient
    kind = table.of(format or recipient.container)
    if not link:
        _check_room(plan.size(out is not None or kind.writes_whole), out or recipient.main_file)
    warnings = left_out(recipient, kind.name)
    if out is not None:
        return warnings + kind.save_as(plan, out, link, force, sync, wait)
    assert lock is not None
    return warnings + kind.save_in_place(plan, lock, link, sync, wait)


def left_out(checkpoint: Checkpoint, kind: str) -> list[str]:
    """A warning, if a checkpoint has metadata that a format cannot hold."""
    own = table.of_checkpoint(checkpoint)
    keys = [] if kind == own.name else own.own_metadata(checkpoint)
    shown = ", ".join(keys[:_MOST_SHOWN]) + (", …" if len(keys) > _MOST_SHOWN else "")
    return [f"{checkpoint.path}: its metadata ({shown}) are left out, which {kind} cannot hold"] if keys else []


def check(plan: Plan, out: str | None, format: str | None) -> None:
    """Whether `save` would carry a plan out, as far as metadata tell.

    Args:
        plan: what to do.
        out: where; None: in its recipient.
        format: as `save` takes it.

    Raises:
        CkptSurgeonError: the format cannot hold what the plan leaves, or no single rename replaces it.
    """
    table.of(format or plan.recipient.container).check(plan, out)


def like(plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
    """A plan for a new file with a template's layout and names; see `keras_writing.like`.

    Raises:
        UsageError: the template is no Keras or HDF5 file.
    """
    found, warnings = table.of_checkpoint(template).like(plan, template)
    return found, left_out(plan.recipient, template.container) + warnings


def compact(plan: Plan, lock: Lock, sync: bool = True, wait: float = 30.0) -> list[str]:
    """Carry a plan out in its recipient and leave no byte that no variable refers to: a bundle becomes one shard.

    Args:
        plan: what to do besides.
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


def stream(plan: Plan, layers: Mapping[str, int]) -> None:
    """Send what a plan leaves to stdout, as safetensors.

    Args:
        plan: what to do.
        layers: name -> number of its layer, for the metadata.

    Raises:
        UnsupportedError: no safetensors file can hold a variable.
    """
    import sys

    from .safetensors import writing as safetensors_writing

    safetensors_writing.stream(plan, sys.stdout.buffer.write, layers)


def _check_room(needed: int, path: str) -> None:
    """Raise, before anything is written, where the disk has no room for it.

    Args:
        needed: bytes.
        path: of the file that is written, or of one beside it.
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
        RefusedError: there is one already, without `force`; or no single rename puts all its files in place.
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


def write_state(out: str, sync: bool = True) -> None:
    """Write the `checkpoint` file of the folder of a new checkpoint, unless it has one."""
    from . import state

    folder = os.path.dirname(out) or "."
    if not os.path.lexists(os.path.join(folder, state.NAME)):
        state.write(folder, out, [out], sync)


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True) -> None:
    """Write a whole new TensorFlow V2 checkpoint; see `bundle.writing.write`."""
    from .bundle import writing as bundle_writing

    bundle_writing.write(prefix, arrays, sync)


def remove(path: str) -> None:
    """Remove all files of a checkpoint that is one file, or a TensorFlow V2 one; missing files are no error.

    Args:
        path: the file, or the prefix.
    """
    for name in (table.STREAMED, table.DEFAULT):
        table.of(name).remove(path)


def sync(*checkpoints: str, also: Iterable[str] = ()) -> None:
    """Wait until all files of checkpoints, and their names, are on the disk.

    Args:
        checkpoints: each of one file, or the prefix of a TensorFlow V2 one.
        also: other files to wait for in the same go.

    Raises:
        NotFoundError: a checkpoint is not there.
    """
    from ..publish import fsync_all

    paths = list(also)
    for path in checkpoints:
        with errors.files(path):
            paths += table.of(table.STREAMED if os.path.isfile(path) else table.DEFAULT).to_sync(path)
    with errors.files(checkpoints[0]):
        fsync_all([*paths, *(os.path.dirname(path) or "." for path in paths)])
