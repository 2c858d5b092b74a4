"""What all formats can do with a plan: check it, carry it out, in its recipient or as a new checkpoint, or stream it.

Writers are imported where something is written, so that a listing does not pay for them.
"""

from __future__ import annotations

import os

from .. import errors
from ..errors import StorageError, UsageError
from .bundle.reading import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

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
        format: of the new checkpoint, one of the values of `FORMATS`; None: the recipient's.
        link: share the donor's data files instead of copying from them.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer of `out`.

    Returns:
        Warnings.
    """
    recipient = plan.recipient
    kind = format or recipient.format
    if kind == "torch":
        from .torch.refusing import not_written

        raise not_written(recipient.path)
    if not link:
        whole = out is not None or kind != "tf-v2"  # then kept variables are written too
        _check_room(plan.size(whole), out or recipient.main_file)
    return left_out(recipient, kind) + _save(plan, lock, out, format, kind, link, force, sync, wait)


def left_out(checkpoint: Checkpoint, kind: str) -> list[str]:
    """A warning, if a checkpoint has metadata that a format cannot hold."""
    if checkpoint.format != "safetensors" or kind == "safetensors":
        return []
    from .safetensors.reading import LAYERS, SafeTensors

    assert isinstance(checkpoint, SafeTensors)
    keys = [key for key in checkpoint.metadata_items() if key != LAYERS]
    shown = ", ".join(keys[:_MOST_SHOWN]) + (", …" if len(keys) > _MOST_SHOWN else "")
    return [f"{checkpoint.path}: its metadata ({shown}) are left out, which {kind} cannot hold"] if keys else []


def _save(
    plan: Plan,
    lock: Lock | None,
    out: str | None,
    format: str | None,
    kind: str,
    link: bool,
    force: bool,
    sync: bool,
    wait: float,
) -> list[str]:
    if kind == "tf-v2":
        return _save_bundle(plan, lock, out, format, link, force, sync, wait)
    if kind == "tf-v1":
        from .v1 import writing as v1_writing

        if out is not None:
            return v1_writing.save_as(plan, out, force, sync, wait)
        assert lock is not None
        return v1_writing.save_in_place(plan, lock, sync, wait)
    if kind == "safetensors":
        from .safetensors import writing as safetensors_writing

        if out is not None:
            return safetensors_writing.save_as(plan, out, force, sync, wait)
        assert lock is not None
        return safetensors_writing.save_in_place(plan, lock, sync, wait)
    if kind in ("hdf5", "keras-zip"):
        from .keras import writing as keras_writing

        if out is not None:
            return keras_writing.save_as(plan, out, kind, force, sync, wait)
        assert lock is not None
        return keras_writing.save_in_place(plan, lock, sync, wait)
    from .npz import writing as npz_writing

    if out is not None:
        return npz_writing.save_as(plan, out, kind, force, sync, wait)
    assert lock is not None
    return npz_writing.save_in_place(plan, lock, sync, wait)


def check(plan: Plan, out: str | None, format: str | None) -> None:
    """Whether `save` would carry a plan out, as far as metadata tell.

    Args:
        plan: what to do.
        out: where; None: in its recipient.
        format: as `save` takes it.

    Raises:
        CkptSurgeonError: the format cannot hold what the plan leaves, or no single rename replaces it.
    """
    kind = format or plan.recipient.format
    if kind == "torch":
        from .torch.refusing import not_written

        raise not_written(plan.recipient.path)
    if kind == "tf-v2":
        from .bundle import writing as bundle_writing

        bundle_writing.check(plan, out)
    elif kind == "tf-v1":
        from .v1 import writing as v1_writing

        v1_writing.check(plan, out)
    elif kind == "safetensors":
        from .safetensors import writing as safetensors_writing

        safetensors_writing.check(plan, out)
    elif kind in ("hdf5", "keras-zip"):
        from .keras import writing as keras_writing

        keras_writing.check(plan, out, kind)
    elif kind in ("npz", "npy"):
        from .npz import writing as npz_writing

        npz_writing.check(plan, out, kind)


def like(plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]:
    """A plan for a new file with a template's layout and names; see `keras_writing.like`.

    Raises:
        UsageError: the template is no Keras or HDF5 file.
    """
    from .keras import writing as keras_writing
    from .keras.reading import Hdf5

    if not isinstance(template, Hdf5):
        raise UsageError("--like takes a Keras or HDF5 file", path=template.path, found=template.format)
    found, warnings = keras_writing.like(plan, template)
    return found, left_out(plan.recipient, template.format) + warnings


def _save_bundle(
    plan: Plan, lock: Lock | None, out: str | None, format: str | None, link: bool, force: bool, sync: bool, wait: float
) -> list[str]:
    from .bundle import writing as bundle_writing

    if out is None:
        assert lock is not None
        return bundle_writing.save_in_place(plan, lock, link, sync, wait)
    if format is None and (isinstance(plan.recipient, Bundle) and plan.recipient.folder is not None):
        from .bundle import saved_model

        return saved_model.save_as(plan, out, link, force, sync, wait)
    return bundle_writing.save_as(plan, out, link, force, sync, wait)


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
    if plan.recipient.format != "tf-v2":  # what is one file is written whole anyway
        return [] if plan.changes_nothing else save(plan, lock=lock, sync=sync, wait=wait)
    from .bundle import writing as bundle_writing

    _check_room(plan.size(True), plan.recipient.main_file)
    return bundle_writing.compact(plan, lock, sync, wait)


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
    """Copy a whole checkpoint, file by file; see `copying.copy`."""
    from . import copying

    needed = 0
    for path in checkpoint.data_files or [checkpoint.main_file]:
        with errors.files(path):
            needed += os.stat(path).st_size
    _check_room(needed, out)
    return copying.copy(checkpoint, out, force, sync, wait)
