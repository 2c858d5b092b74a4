"""The format contract: what every format must provide. `table` lists them; see docs/adding-a-format.md to add one.

A format's folder holds `format.py`, with one class that fulfils this contract, and the modules that class uses:
`reading` for the open checkpoint, `writing` for plans, and so on. Readers never import writers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from ..checkpoint import Checkpoint
    from ..errors import RefusedError
    from ..plan import Plan
    from ..publish import Lock
else:
    Protocol = object  # importing typing takes half as long as a listing


class Found:
    """A checkpoint that was found.

    Attributes:
        format: the name of its row in the table of formats.
        path: a prefix, a file, or the name by which the user referred to several files.
        files: its files, the main file first; for a V2 checkpoint only the index.
        folder: the SavedModel folder, or None.
    """

    __slots__ = ("files", "folder", "format", "path")

    def __init__(self, format: str, path: str, files: list[str], folder: str | None = None) -> None:
        self.format = format
        self.path = path
        self.files = files
        self.folder = folder


class Format(Protocol):
    """One format of checkpoints.

    Usage:
        format = table.of("npz")
        found = format.recognise("weights.npz")
        with format.open(found) as checkpoint:
            ...
            format.check(plan, out=None)
            format.save_in_place(plan, lock, link=False, sync=True, wait=30.0)

    Lifetime: there is one object of each format for the whole process. It holds no state, so every method may be called
    in any order, repeatedly, and for several checkpoints at once. The caller must close the `Checkpoint` that `open`
    returns. `save_*`, `copy`, `compact` and `put_back` publish by a single rename or leave everything as it was.

    Attributes:
        name: the name of its row in the table.
        is_tensorflow: a TensorFlow format: names have no ending, a `.meta` file may stand next to the checkpoint, and
            the checkpoint may hold an object graph.
        has_state: a `checkpoint` state file may stand next to a checkpoint.
        is_written: False if checkpoints of this format are only read.
        is_folder: a new checkpoint of this format is a folder.
        writes_whole: an operation in place writes all values, not only those that change.
        shares_files: `link` can share a donor's files.
    """

    name: str
    is_tensorflow: bool
    has_state: bool
    is_written: bool
    is_folder: bool
    writes_whole: bool
    shares_files: bool

    # -- reading

    # Recognises, by content, a path (an existing file or folder, or a prefix) that is a checkpoint of this format.
    # None: the path is something else. DamagedError: it is such a checkpoint, but one of its files is missing.
    def recognise(self, path: str) -> Found | None: ...

    # Opens the checkpoint that `recognise` found; reads only metadata.
    def open(self, found: Found) -> Checkpoint: ...

    # Paths of all files of a checkpoint that was found.
    def files(self, found: Found) -> list[str]: ...

    # Keys of metadata that no other format can hold; a conversion must warn that they are lost.
    def own_metadata(self, checkpoint: Checkpoint) -> list[str]: ...

    # -- writing

    # The file whose rename publishes a new checkpoint at `out`.
    def main_file(self, out: str) -> str: ...

    # Raises if a plan cannot be carried out in its recipient (out None), or as a new checkpoint of this format, even
    # if the recipient has another format. Also raises if a single rename cannot replace the recipient.
    def check(self, plan: Plan, out: str | None) -> None: ...

    # What the framework that this format belongs to could not load after a plan that it could load before, as a
    # RefusedError; None if nothing; and warnings about state that it would silently leave out. Only the binding that
    # the container itself fixes counts: the program that reads a checkpoint may have changed together with it.
    def binding(self, plan: Plan, out: str | None) -> tuple[RefusedError | None, list[str]]: ...

    # Carries a plan out in its recipient, which is of this format and locked; returns warnings. Just before the rename,
    # it calls `announce` of the lock on the file that is replaced.
    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]: ...

    # Carries a plan out as a new checkpoint, whatever format its recipient has; returns warnings.
    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]: ...

    # As `save_in_place`, but also removes all bytes that no variable refers to.
    def compact(self, plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]: ...

    # Removes what a crash left of an operation on a checkpoint, which is locked; called when there is nothing to write.
    # With `compact` also finishes what a killed `compact` had begun. Returns warnings.
    def heal(self, checkpoint: Checkpoint, lock: Lock, sync: bool, wait: float, compact: bool) -> list[str]: ...

    # Brings back a kept version: `kept` is a hard link to a former file `path`, which is the locked main file or, in a
    # set, another file; the version's other files stand next to `kept`. Returns warnings.
    def put_back(self, path: str, kept: str, lock: Lock, sync: bool, wait: float) -> list[str]: ...

    # Copies a checkpoint whose checksums were all verified, file by file; returns warnings.
    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]: ...

    # The plan for a new file with the values of `plan` and the layout and names of `template`, which has this format;
    # and warnings. UsageError if the format does not support templates.
    def like(self, plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]: ...

    # Removes a checkpoint; missing files are not an error.
    def remove(self, path: str) -> None: ...

    # The files of the checkpoint at `path` that must be synced so that it survives a power failure.
    def to_sync(self, path: str) -> Iterable[str]: ...
