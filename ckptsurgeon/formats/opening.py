"""Opens checkpoints from any spelling of their path, for reading, or under a lock for writing in place."""

from __future__ import annotations

import os

from ..errors import ChangedError, CkptSurgeonError, Problems, UsageError, files
from ..source import is_folder, size_of
from . import locating, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ..checkpoint import Checkpoint
    from ..publish import Lock
    from .format import Found

    Result = TypeVar("Result")

_TRIES = 100  # attempts to open a checkpoint that keeps being replaced


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint for reading.

    Args:
        path: a prefix, any file of a checkpoint, a SavedModel folder, a folder with a `checkpoint` file, or "-" for
            stdin.

    Raises:
        NotFoundError: there is no checkpoint at this path.
        UnsupportedError: the path is something else.
        DamagedError: the checkpoint's metadata contradict themselves.
    """
    name = os.fspath(path)
    return _open_stdin() if name == "-" else retry(lambda: _open(locating.locate(name)))


def spool_beside(path: str) -> None:
    """Read stdin to its end, and keep its bytes on the same disk as a checkpoint, for `open("-")`.

    Args:
        path: any spelling of the checkpoint.
    """
    from . import stdin

    stdin.spool(None if path == "-" else os.path.dirname(locating.locate(path).files[0]) or ".")


def _open_stdin() -> Checkpoint:
    from . import stdin

    path = stdin.spool()
    try:
        checkpoint = _open(locating.locate(path))
    except CkptSurgeonError as error:
        error.path = "stdin"
        raise
    checkpoint.path = "stdin"
    return checkpoint


def _open(found: Found) -> Checkpoint:
    return table.of(found.format).open(found)


def checkpoints(folder: str) -> list[dict[str, object]]:
    """The checkpoints in a folder.

    Args:
        folder: path.

    Returns:
        Dicts with the keys checkpoint (its path), format, bytes (total size of its files) and latest (whether the
        folder's `checkpoint` file names it as the latest).

    Raises:
        NotFoundError: the folder does not exist, or holds no checkpoint.
    """
    from . import state

    latest = state.read(folder) if is_folder(folder) else None
    return [
        {
            "checkpoint": each.path,
            "format": each.format,
            "bytes": sum(size_of(path) for path in locating.files_of(each)),
            "latest": latest is not None and os.path.realpath(latest.latest) == os.path.realpath(each.path),
        }
        for each in locating.in_folder(folder)
    ]


def retry(attempt: Callable[[], Result]) -> Result:
    """Call `attempt`, and call it again whenever a checkpoint was replaced while being read.

    Raises:
        ChangedError: a checkpoint was replaced during each of a hundred attempts.
    """
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except ChangedError:
            continue
        except CkptSurgeonError as error:
            _call_stdin_so(error)
            raise
        except OSError as error:
            if error.filename is None:  # of a stream to stdout, not of a file
                raise
            with files(str(error.filename)):
                raise
    return attempt()


def _call_stdin_so(error: CkptSurgeonError) -> None:
    """Make an error name stdin instead of the file that keeps its bytes."""
    from . import stdin

    for each in error.problems if isinstance(error, Problems) else [error]:
        if stdin.is_spooled(each.path):
            each.path = "stdin"


def has_kept(main_file: str) -> bool:
    """Whether versions of the checkpoint with this main file may be kept for `undo`; see `kept.store`."""
    from ..publish import KEPT

    folder, name = os.path.split(main_file)
    return is_folder(os.path.join(folder, KEPT, name))


class locked:
    """A context manager that opens a checkpoint for writing in place and locks out other writers.

    Args:
        path: any spelling of the checkpoint.
        wait: seconds to wait for another writer.

    Raises:
        BusyError: another process held the lock all the time; and as `open`.

    Attributes:
        checkpoint: open.
        lock: on its main file.
        files: all its files, the main file first.
    """

    def __init__(self, path: str, wait: float) -> None:
        from ..publish import Lock

        if path == "-":
            raise UsageError("- is stdin, which cannot be replaced", expected="-o OUT")
        for _ in range(_TRIES):
            found = locating.locate(path)
            self.lock: Lock = Lock(found.files[0], wait)
            try:
                self.checkpoint = _open(found)
                if self.lock.holds() and not self.checkpoint.was_replaced():
                    self.files = list(dict.fromkeys([*found.files, *self.checkpoint.data_files]))
                    if has_kept(found.files[0]):
                        from .kept.store import Store

                        Store(found.files[0]).heal()
                    return
                self.checkpoint.close()
            except BaseException:
                self.lock.release()
                raise
            self.lock.release()
        raise ChangedError("keeps being replaced by another process", path=path)

    def __enter__(self) -> locked:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.checkpoint.close()
        self.lock.release()
