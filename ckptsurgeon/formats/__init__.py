"""The formats, and what all of them can do: open a checkpoint from any spelling of its path, carry a plan out.

Writers are imported where something is written, so that a listing does not pay for them.
"""

from __future__ import annotations

import os

from .. import errors
from ..errors import ChangedError, CkptSurgeonError, StorageError
from . import find, state
from .bundle import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeVar

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..plan import Plan
    from ..publish import Lock

    Result = TypeVar("Result")

# What users call the formats that are written, and the endings of names that mean one.
FORMATS = {"bundle": "tf-v2", "v1": "tf-v1", "safetensors": "safetensors", "npz": "npz", "npy": "npy"}
_ENDINGS = {
    ".safetensors": "safetensors", ".npz": "npz", ".npy": "npy", ".h5": "hdf5", ".hdf5": "hdf5", ".keras": "keras-zip",
}  # fmt: skip

_TRIES = 100  # a checkpoint that is replaced more often than that while one reads it is no checkpoint


def open(path: str, spool_folder: str | None = None) -> Checkpoint:
    """Open a checkpoint for reading.

    Args:
        path: a prefix, any file of a checkpoint, a SavedModel folder, a folder with a `checkpoint` file, or "-" for
            stdin.
        spool_folder: where the bytes of stdin are kept meanwhile; None: where temporary files are.

    Raises:
        NotFoundError: there is none.
        UnsupportedError: something else is there.
        DamagedError: its metadata contradict themselves.
    """
    if path == "-":
        return _open_stdin(spool_folder)
    return retry(lambda: _open(find.locate(path)))


def _open_stdin(folder: str | None) -> Checkpoint:
    from . import stdin

    path = stdin.spool(folder)
    try:
        checkpoint = _open(find.locate(path))
    except CkptSurgeonError as error:
        error.path = "stdin"
        raise
    checkpoint.path = "stdin"
    return checkpoint


def _open(found: find.Found) -> Checkpoint:
    if found.format == "tf-v2":
        return Bundle(found.path, found.folder)
    if found.format == "tf-v1":
        from .v1 import V1

        return V1(found.path, found.files)
    if found.format == "safetensors":
        from .safetensors import SafeTensors

        return SafeTensors(found.path, found.files)
    if found.format in ("hdf5", "keras-zip"):
        from .hdf5 import Hdf5
        from .keras_zip import KerasZip

        return (Hdf5 if found.format == "hdf5" else KerasZip)(found.path, found.files)
    from .npz import Npy, Npz

    return Npz(found.path) if found.format == "npz" else Npy(found.path)


def checkpoints(folder: str) -> list[dict[str, object]]:
    """The checkpoints in a folder, in natural order of their names.

    Args:
        folder: path.

    Returns:
        Dicts with the keys checkpoint (its path), format, bytes (of all its files) and latest (whether the folder's
        `checkpoint` file names it so).

    Raises:
        NotFoundError: there is no such folder, or no checkpoint in it.
    """
    from ..names import natural_key

    latest = state.read(folder) if os.path.isdir(folder) else None
    found = sorted(find.in_folder(folder), key=lambda each: natural_key(each.path))
    return [
        {
            "checkpoint": each.path,
            "format": each.format,
            "bytes": sum(os.path.getsize(path) for path in find.files_of(each)),
            "latest": latest is not None and os.path.realpath(latest.latest) == os.path.realpath(each.path),
        }
        for each in found
    ]


def retry(attempt: Callable[[], Result]) -> Result:
    """Do `attempt` again as long as a checkpoint was replaced while it was read.

    Raises:
        ChangedError: every one of a hundred attempts met a new checkpoint.
    """
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except ChangedError:
            continue
    return attempt()


class locked:
    """A checkpoint opened for writing in place: no other writer may touch it for the length of the block.

    Args:
        path: any spelling of the checkpoint.
        wait: seconds to wait for another writer.

    Raises:
        BusyError: another process was writing it all the time; and as `open`.

    Attributes:
        checkpoint: open.
        lock: on its main file.
    """

    def __init__(self, path: str, wait: float) -> None:
        from ..publish import Lock

        for _ in range(_TRIES):
            found = find.locate(path)
            self.lock: Lock = Lock(found.files[0], wait)
            try:
                self.checkpoint = _open(found)
                if self.lock.holds() and not self.checkpoint.was_replaced():
                    return
                self.checkpoint.close()
            except BaseException:
                self.lock.release()
                raise
            self.lock.release()
        raise ChangedError("is being replaced all the time", path=path)

    def __enter__(self) -> locked:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.checkpoint.close()
        self.lock.release()


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
    if not link:
        whole = out is not None or kind != "tf-v2"  # then kept variables are written too
        _check_room(plan.size(whole), out or recipient.main_file)
    if kind == "tf-v2":
        return _save_bundle(plan, lock, out, format, link, force, sync, wait)
    if kind == "tf-v1":
        from . import v1_write

        if out is not None:
            return v1_write.save_as(plan, out, force, sync, wait)
        assert lock is not None
        return v1_write.save_in_place(plan, lock, sync, wait)
    if kind == "safetensors":
        from . import safetensors_write

        if out is not None:
            return safetensors_write.save_as(plan, out, force, sync, wait)
        assert lock is not None
        return safetensors_write.save_in_place(plan, lock, sync, wait)
    if kind in ("hdf5", "keras-zip"):
        from . import hdf5_write

        if out is not None:
            return hdf5_write.save_as(plan, out, kind, force, sync, wait)
        assert lock is not None
        return hdf5_write.save_in_place(plan, lock, sync, wait)
    from . import npz_write

    if out is not None:
        return npz_write.save_as(plan, out, kind, force, sync, wait)
    assert lock is not None
    return npz_write.save_in_place(plan, lock, sync, wait)


def _save_bundle(
    plan: Plan, lock: Lock | None, out: str | None, format: str | None, link: bool, force: bool, sync: bool, wait: float
) -> list[str]:
    from . import bundle_write

    if out is None:
        assert lock is not None
        return bundle_write.save_in_place(plan, lock, link, sync, wait)
    if format is None and is_saved_model(plan.recipient):
        from . import saved_model

        return saved_model.save_as(plan, out, link, force, sync, wait)
    return bundle_write.save_as(plan, out, link, force, sync, wait)


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
    from . import bundle_write

    _check_room(plan.size(True), plan.recipient.main_file)
    return bundle_write.compact(plan, lock, sync, wait)


def stream(plan: Plan, layers: Mapping[str, int]) -> None:
    """Send what a plan leaves to stdout, as safetensors.

    Args:
        plan: what to do.
        layers: name -> number of its layer, for the metadata.

    Raises:
        UnsupportedError: no safetensors file can hold a variable.
    """
    import sys

    from . import safetensors_write

    safetensors_write.stream(plan, sys.stdout.buffer.write, layers)


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


def format_of(out: str) -> str | None:
    """The format that the ending of a new checkpoint's name means; None for a name without one, as TensorFlow's are."""
    return _ENDINGS.get(os.path.splitext(out)[1])


def has_state(checkpoint: Checkpoint) -> bool:
    """Whether a `checkpoint` file may stand beside a checkpoint."""
    return checkpoint.format.startswith("tf-") and not is_saved_model(checkpoint)


def is_saved_model(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds the variables of a SavedModel folder."""
    return isinstance(checkpoint, Bundle) and checkpoint.folder is not None


def main_file(out: str, like: Checkpoint, format: str | None = None) -> str:
    """The main file of the checkpoint that `save` would write at `out`.

    Args:
        out: where.
        like: the recipient of the plan.
        format: as `save` takes it.
    """
    if (format or like.format) != "tf-v2":
        return out
    if format is None and is_saved_model(like):
        return os.path.join(out, "variables", "variables.index")
    return out + ".index"


def copy(checkpoint: Checkpoint, out: str, force: bool = False, sync: bool = True, wait: float = 30.0) -> list[str]:
    """Copy a whole checkpoint, file by file; see `copying.copy`."""
    from . import copying

    needed = 0
    for path in checkpoint.data_files or [checkpoint.main_file]:
        with errors.files(path):
            needed += os.stat(path).st_size
    _check_room(needed, out)
    return copying.copy(checkpoint, out, force, sync, wait)


def write_state(out: str, sync: bool = True) -> None:
    """Write the `checkpoint` file of the folder of a new checkpoint, unless it has one."""
    folder = os.path.dirname(out) or "."
    if not os.path.lexists(os.path.join(folder, state.NAME)):
        state.write(folder, out, [out], sync)


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True) -> None:
    """Write a whole new TensorFlow V2 checkpoint; see `bundle_write.write`."""
    from . import bundle_write

    bundle_write.write(prefix, arrays, sync)


def remove(prefix: str) -> None:
    """Remove all files of a TensorFlow V2 checkpoint; that some are missing is no error."""
    from . import bundle_write

    bundle_write.delete(prefix)


def sync(*prefixes: str, also: Iterable[str] = ()) -> None:
    """Wait until all files of TensorFlow V2 checkpoints, and their names, are on the disk.

    Args:
        prefixes: of the checkpoints.
        also: other files to wait for in the same go.

    Raises:
        NotFoundError: a checkpoint is not there.
    """
    from ..publish import fsync_all
    from .bundle_publish import shard_files

    paths = list(also)
    for prefix in prefixes:
        with errors.files(prefix):
            paths += [path for path, _, _ in shard_files(prefix)]
        paths.append(prefix + ".index")
    with errors.files(prefixes[0]):
        fsync_all([*paths, *(os.path.dirname(path) or "." for path in paths)])
