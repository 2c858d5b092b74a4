"""The formats, and what all of them can do: open a checkpoint from any spelling of its path, carry a plan out.

Writers are imported where something is written, so that a listing does not pay for them.
"""

from __future__ import annotations

import os

from .. import errors
from ..errors import ChangedError
from . import find
from .bundle import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeVar

    from numpy.typing import NDArray

    from ..plan import Plan
    from ..publish import Lock

    Result = TypeVar("Result")

_TRIES = 100  # a checkpoint that is replaced more often than that while one reads it is no checkpoint


def open(path: str) -> Bundle:
    """Open a checkpoint for reading.

    Args:
        path: a prefix, any file of a checkpoint, a SavedModel folder, or a folder with a `checkpoint` file.

    Raises:
        NotFoundError: there is none.
        UnsupportedError: something else is there.
        DamagedError: its metadata contradict themselves.
    """
    for _ in range(_TRIES):
        with errors.files(path):
            prefix = find.prefix(path)
        try:
            return Bundle(prefix)
        except ChangedError:
            continue
    return Bundle(prefix)


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
        lock: on its index.
    """

    def __init__(self, path: str, wait: float) -> None:
        from ..publish import Lock

        for _ in range(_TRIES):
            prefix = find.prefix(path)
            self.lock: Lock = Lock(prefix + ".index", wait)
            try:
                self.checkpoint = Bundle(prefix)
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
        link: share the donor's data files instead of copying from them.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer of `out`.

    Returns:
        Warnings.
    """
    from . import bundle_write

    if out is not None:
        return bundle_write.save_as(plan, out, link, force, sync, wait)
    assert lock is not None
    return bundle_write.save_in_place(plan, lock, link, sync, wait)


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
