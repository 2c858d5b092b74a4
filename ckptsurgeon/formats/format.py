"""The format contract: what the program asks of a format. `table` lists the formats; docs/adding-a-format.md shows how.

A format's folder holds `format.py`, with one class that keeps this contract, and whatever that class calls: `reading`
for the open checkpoint, `writing` for plans, and so on. Readers never import writers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from ..checkpoint import Checkpoint
    from ..plan import Plan
    from ..publish import Lock
else:
    Protocol = object  # typing's import takes as long as half a listing


class Found:
    """A checkpoint that was found.

    Attributes:
        format: the name of its row in the table of formats.
        path: a prefix, a file, or the name that the user gave to several files.
        files: its files, the main file first; of a V2 checkpoint the index alone.
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
    in any order, again, and for several checkpoints at once. A `Checkpoint` that `open` returned is the caller's to
    close. `save_*`, `copy` and `compact` publish by a single rename or leave everything as it was.

    Attributes:
        name: the name of its row in the table.
        is_tensorflow: TensorFlow's own: a name without an ending, `.meta` beside it, may hold an object graph.
        has_state: a `checkpoint` state file may stand beside it.
        is_folder: a new checkpoint of this format is a folder.
        writes_whole: an operation in place writes all values, not only those that change.
        shares_files: `link` can share a donor's files.
    """

    name: str
    is_tensorflow: bool
    has_state: bool
    is_folder: bool
    writes_whole: bool
    shares_files: bool

    # -- reading

    # Whether a path (an existing file or folder, or a prefix) is a checkpoint of this format, by content.
    # None: it is something else. DamagedError: it is one, but a file of it is missing.
    def recognise(self, path: str) -> Found | None: ...

    # Opens what `recognise` found; reads metadata alone.
    def open(self, found: Found) -> Checkpoint: ...

    # Paths of all files of a checkpoint that was found.
    def files(self, found: Found) -> list[str]: ...

    # Keys of metadata beside the variables that no other format holds, which a conversion must warn of.
    def own_metadata(self, checkpoint: Checkpoint) -> list[str]: ...

    # -- writing

    # The file whose rename publishes a new checkpoint at `out`.
    def main_file(self, out: str) -> str: ...

    # Raises unless a plan can be carried out: in its recipient (out None), or as a new checkpoint of this format, also
    # from a recipient of another one. This includes whether one rename can replace the recipient.
    def check(self, plan: Plan, out: str | None) -> None: ...

    # Carries a plan out in its recipient, which is of this format and locked; returns warnings.
    def save_in_place(self, plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]: ...

    # Carries a plan out as a new checkpoint, whatever format its recipient has; returns warnings.
    def save_as(self, plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]: ...

    # As `save_in_place`, and leaves no byte that no variable refers to.
    def compact(self, plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]: ...

    # Copies a checkpoint, all checksums of which were verified, file by file; returns warnings.
    def copy(self, checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]: ...

    # The plan for a new file with the layout and names of `template`, which is of this format, and the values of
    # `plan`; and warnings. UsageError where the format's layout does not come from a template.
    def like(self, plan: Plan, template: Checkpoint) -> tuple[Plan, list[str]]: ...

    # Removes a checkpoint; missing files are no error.
    def remove(self, path: str) -> None: ...

    # The files of the checkpoint at `path` that must be synced so that it outlives a power cut.
    def to_sync(self, path: str) -> Iterable[str]: ...
