"""The formats: open a checkpoint from any spelling of its path; `saving` is where a plan is carried out."""

from __future__ import annotations

import os

from .. import errors
from ..errors import ChangedError, CkptSurgeonError, Problems, UsageError
from . import locating, state
from .bundle.reading import Bundle
from .saving import check as check
from .saving import compact as compact
from .saving import copy as copy
from .saving import like as like
from .saving import save as save
from .saving import stream as stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeVar

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..publish import Lock

    Result = TypeVar("Result")

# What users call the formats that are written, and the endings of names that mean one.
FORMATS = {
    "bundle": "tf-v2", "v1": "tf-v1", "safetensors": "safetensors", "npz": "npz", "npy": "npy", "hdf5": "hdf5",
    "keras": "keras-zip",
}  # fmt: skip
_ENDINGS = {
    ".safetensors": "safetensors", ".npz": "npz", ".npy": "npy", ".h5": "hdf5", ".hdf5": "hdf5", ".keras": "keras-zip",
}  # fmt: skip

_TRIES = 100  # a checkpoint that is replaced more often than that while one reads it is no checkpoint


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint for reading.

    Args:
        path: a prefix, any file of a checkpoint, a SavedModel folder, a folder with a `checkpoint` file, or "-" for
            stdin.

    Raises:
        NotFoundError: there is none.
        UnsupportedError: something else is there.
        DamagedError: its metadata contradict themselves.
    """
    name = os.fspath(path)
    return _open_stdin() if name == "-" else retry(lambda: _open(locating.locate(name)))


def spool_beside(path: str) -> None:
    """Read stdin to its end, and keep its bytes on the disk where a checkpoint lies, for `open("-")`.

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


def _open(found: locating.Found) -> Checkpoint:
    if found.format == "tf-v2":
        return Bundle(found.path, found.folder)
    if found.format == "tf-v1":
        from .v1.reading import V1

        return V1(found.path, found.files)
    if found.format == "safetensors":
        from .safetensors.reading import SafeTensors

        return SafeTensors(found.path, found.files)
    if found.format in ("hdf5", "keras-zip"):
        from .keras.archive import KerasZip
        from .keras.reading import Hdf5

        return (Hdf5 if found.format == "hdf5" else KerasZip)(found.path, found.files)
    if found.format == "torch":
        from .torch.reading import Torch

        return Torch(found.path, found.files)
    from .npz.reading import Npy, Npz

    return Npz(found.path) if found.format == "npz" else Npy(found.path)


def checkpoints(folder: str) -> list[dict[str, object]]:
    """The checkpoints in a folder.

    Args:
        folder: path.

    Returns:
        Dicts with the keys checkpoint (its path), format, bytes (of all its files) and latest (whether the folder's
        `checkpoint` file names it so).

    Raises:
        NotFoundError: there is no such folder, or no checkpoint in it.
    """
    latest = state.read(folder) if os.path.isdir(folder) else None
    return [
        {
            "checkpoint": each.path,
            "format": each.format,
            "bytes": sum(os.path.getsize(path) for path in locating.files_of(each)),
            "latest": latest is not None and os.path.realpath(latest.latest) == os.path.realpath(each.path),
        }
        for each in locating.in_folder(folder)
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
        except CkptSurgeonError as error:
            _call_stdin_so(error)
            raise
    return attempt()


def _call_stdin_so(error: CkptSurgeonError) -> None:
    """Make an error name stdin, and not the file that keeps its bytes."""
    from . import stdin

    for each in error.problems if isinstance(error, Problems) else [error]:
        if stdin.is_spooled(each.path):
            each.path = "stdin"


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

        if path == "-":
            raise UsageError("- is stdin, which cannot be replaced", expected="-o OUT")
        for _ in range(_TRIES):
            found = locating.locate(path)
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


def write_state(out: str, sync: bool = True) -> None:
    """Write the `checkpoint` file of the folder of a new checkpoint, unless it has one."""
    folder = os.path.dirname(out) or "."
    if not os.path.lexists(os.path.join(folder, state.NAME)):
        state.write(folder, out, [out], sync)


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True) -> None:
    """Write a whole new TensorFlow V2 checkpoint; see `bundle_writing.write`."""
    from .bundle import writing as bundle_writing

    bundle_writing.write(prefix, arrays, sync)


def remove(path: str) -> None:
    """Remove all files of a checkpoint that is one file, or a TensorFlow V2 one; that some are missing is no error.

    Args:
        path: the file, or the prefix.
    """
    import contextlib

    from .bundle import writing as bundle_writing

    with errors.files(path), contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)
    bundle_writing.delete(path)


def sync(*checkpoints: str, also: Iterable[str] = ()) -> None:
    """Wait until all files of checkpoints, and their names, are on the disk.

    Args:
        checkpoints: each of one file, or the prefix of a TensorFlow V2 one.
        also: other files to wait for in the same go.

    Raises:
        NotFoundError: a checkpoint is not there.
    """
    from ..publish import fsync_all
    from .bundle.publishing import shard_files

    paths = list(also)
    for path in checkpoints:
        if os.path.isfile(path):
            paths.append(path)
            continue
        with errors.files(path):
            paths += [shard for shard, _, _ in shard_files(path)]
        paths.append(path + ".index")
    with errors.files(checkpoints[0]):
        fsync_all([*paths, *(os.path.dirname(path) or "." for path in paths)])
