"""Finds the files of a checkpoint from any spelling of its path, and identifies files by their first bytes."""

from __future__ import annotations

import os

from .. import errors
from ..errors import CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError
from ..source import is_file, is_folder, kind_at, open_source
from . import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .format import Format, Found

_DEEPEST = 8  # levels of folders that are searched below a folder without a checkpoint of its own
_MOST_ENTRIES = 20_000  # files and folders that are looked at below it
_LONGEST_REVISION = 100  # bytes of the file `refs/main` in the hub's cache
_MOST_NAMED = 12  # checkpoints in a message
_EXPECTED = "a checkpoint of TensorFlow, PyTorch, Keras, safetensors, npz or npy"


def locate(path: str) -> Found:
    """Find the checkpoint that a path refers to.

    Args:
        path: a prefix; its `.index`, `.data-…` or `.meta` file; a V1 file, or the `-?????-of-NNNNN` pattern of a set;
            a file of any other format; the index of a set of files, or one of them; a folder: a SavedModel, one with a
            `checkpoint` file, a model of Hugging Face's libraries or its place in the hub's cache, a preset of
            KerasHub, or any other with only one checkpoint in it or below it.

    Raises:
        NotFoundError: the path does not exist, or holds no checkpoint, or several.
        UnsupportedError: the path is something else, which the message names.
        DamagedError: a folder's state file is damaged, a file is empty, or a file of a set is missing.
        StorageError: the operating system refused.
    """
    with errors.files(path):
        if not path:
            raise NotFoundError("no such checkpoint", path="''")
        default = table.of(table.DEFAULT)
        found = default.recognise(path)  # a bundle wins over a file of the same name, as in TensorFlow
        if found is not None:
            return found
        if is_folder(path):
            return _of_folder(path)
        stripped = list(_stripped(path))
        for format in table.in_order():  # each is imported only if those before it do not recognise the path
            for candidate in stripped if format is default else [path, *stripped]:
                found = format.recognise(candidate)
                if found is not None:
                    return found
        if kind_at(path):
            raise _explain(path)
        if ".data-" in os.path.basename(path) or path.endswith(".index"):
            raise NotFoundError("no such file", path=path)
        raise NotFoundError("no such checkpoint", path=path, hint=_neighbour(path))


def _recognised(path: str, formats: Iterable[Format]) -> Found | None:
    """The checkpoint at exactly this path, in the first of these formats that recognises it."""
    for format in formats:
        found = format.recognise(path)
        if found is not None:
            return found
    return None


def _stripped(path: str) -> Iterator[str]:
    folder, base = os.path.split(path)
    for ending in (".index", ".meta"):
        if base.endswith(ending):
            yield os.path.join(folder, base[: -len(ending)])
    stem, dot, rest = base.rpartition(".data-")
    if dot and rest.replace("-of-", "").isdigit():
        yield os.path.join(folder, stem)


def _of_folder(folder: str) -> Found:
    """The checkpoint that a folder stands for."""
    found = _chosen(folder)
    if found is not None:
        return found
    from . import foreign

    other = foreign.layout(folder)
    if other is not None:
        raise other
    several = _held(folder)
    if not several:
        other = foreign.explain(folder, _EXPECTED)
        if other is not None:
            raise other
        several = _below(folder)
    if not several:
        raise foreign.content(folder) or NotFoundError("a folder without a checkpoint", path=folder)
    if len(several) > 1:
        names = [_name_in(folder, each) for each in several]
        more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        hint = f"name one: {', '.join(names[:_MOST_NAMED])}{more}"
        raise NotFoundError("a folder with several checkpoints", path=folder, hint=hint)
    return several[0]


def _chosen(folder: str) -> Found | None:
    """The checkpoint that a folder's layout or its state file chooses among its files; None if they choose none."""
    from . import state  # imported only for folders: compiling its patterns takes as long as a small listing

    saved = table.of("saved-model").recognise(folder)
    if saved is not None:
        return saved
    try:
        known = state.read(folder)
    except DamagedError as error:
        from . import foreign

        raise foreign.explain(folder, _EXPECTED) or error from None  # Orbax also has a file named `checkpoint`
    if known is None:
        return _recognised(folder, (format for format in table.in_order() if not format.is_tensorflow))
    latest = _recognised(known.latest, table.in_order())
    if latest is not None:
        return latest
    if is_file(known.latest):
        raise _explain(known.latest)
    raise NotFoundError("its 'checkpoint' file names a checkpoint that is not there", path=folder, found=known.latest)


def _below(folder: str) -> list[Found]:
    """The checkpoints in the nearest folders below a folder that have some: presets, stages of a run, the hub's cache.

    Raises:
        NotFoundError: there are too many files and folders to look at.
        UnsupportedError: the only ones are in a layout of another program.
        DamagedError: the only ones are damaged.
    """
    from . import foreign

    found: list[Found] = []
    other: CkptSurgeonError | None = None
    level, left = [folder], _MOST_ENTRIES
    for _ in range(_DEEPEST):
        level, above = [], level
        for each in above:
            names = _folders(each)
            left -= len(names)
            for name in names:
                inner = os.path.join(each, name)
                left -= len(os.listdir(inner))
                if left < 0:
                    raise NotFoundError("a folder without a checkpoint, and too large to search", path=folder)
                strange: CkptSurgeonError | None = None
                try:
                    chosen, strange = _chosen(inner), foreign.layout(inner)
                    held = [chosen] if chosen is not None else [] if strange is not None else _held(inner)
                except CkptSurgeonError as error:  # a damaged one beside a sound one
                    held, strange = [], error
                found += held
                other = other or strange
                if not held and strange is None:
                    level.append(inner)
    if other is not None and not found:
        raise other
    return found


def _folders(folder: str) -> list[str]:
    """The names of the folders in a folder that may hold checkpoints of their own.

    Of a repository in the hub's cache, only the revision to which `refs/main` points is looked at, if there is one:
    the others are older, and `blobs` holds the files themselves.
    """
    snapshots = os.path.join(folder, "snapshots")
    if is_folder(os.path.join(folder, "blobs")) and is_folder(snapshots):
        try:
            with open_source(os.path.join(folder, "refs", "main")) as file:
                revision = file.read(0, _LONGEST_REVISION).decode("ascii", "replace").strip()
        except (OSError, CkptSurgeonError):
            revision = ""
        is_there = revision.isalnum() and is_folder(os.path.join(snapshots, revision))
        return [os.path.join("snapshots", revision if is_there else "")]
    with os.scandir(folder) as entries:
        return sorted(
            entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        )


def _held(folder: str) -> list[Found]:
    """The checkpoints whose files lie in a folder, each set of files once.

    Raises:
        CkptSurgeonError: the only ones are sets of files that are not complete.
    """
    from . import state

    found: dict[tuple[str, ...], Found] = {}
    problems: list[CkptSurgeonError] = []
    default, *others = table.in_order()
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not is_file(path) or ".data-" in name or name == state.NAME or name.startswith("."):
            continue
        try:
            is_bundle = name.endswith(".index")
            each = default.recognise(path[: -len(".index")]) if is_bundle else _recognised(path, others)
        except CkptSurgeonError as error:
            problems.append(error)
            continue
        if each is not None:
            if each.path in each.files:
                each.path = each.files[0]  # of a set, the index
            found.setdefault(tuple(each.files), each)
    if problems and not found:
        raise problems[0]
    return list(found.values())


def _name_in(folder: str, found: Found) -> str:
    """The name by which a user may refer to a checkpoint in a folder, relative to it."""
    return os.path.relpath(found.folder or found.path, folder)


def in_folder(folder: str) -> list[Found]:
    """The checkpoints whose files lie in a folder.

    Raises:
        NotFoundError: the folder holds no checkpoint, or does not exist.
    """
    with errors.files(folder):
        if not is_folder(folder):
            raise NotFoundError("no such folder", path=folder)
        found = _held(folder)
        if not found:
            raise NotFoundError("a folder without a checkpoint", path=folder)
        return found


def files_of(found: Found) -> list[str]:
    """All files of a checkpoint that was found."""
    return table.of(found.format).files(found)


def _explain(path: str) -> CkptSurgeonError:
    """The error that explains why an existing file cannot be opened as a checkpoint."""
    from . import foreign, state

    if path.endswith(".index") or ".data-" in os.path.basename(path):
        return NotFoundError("the checkpoint's other files are missing", path=path)
    other = foreign.explain(path, _EXPECTED)
    if other is not None:
        return other
    if os.path.basename(path) == state.NAME and _is_state(os.path.dirname(path) or "."):
        return UnsupportedError("the state file of a checkpoint folder", path=path, hint="name the folder")
    with open_source(path) as file:
        head = file.read(0, 8)
    return UnsupportedError("not a checkpoint of a known format", path=path, found=f"first bytes {head.hex()}")


def _is_state(folder: str) -> bool:
    """Whether the file `checkpoint` of a folder is a state file."""
    from . import state

    try:
        return state.read(folder) is not None
    except CkptSurgeonError:
        return False


def _neighbour(path: str) -> str | None:
    folder, base = os.path.split(path)
    if not is_folder(folder or "."):
        return f"there is no folder {folder}"
    names = {name[: -len(".index")] for name in os.listdir(folder or ".") if name.endswith(".index")}
    return errors.did_you_mean(base, names)
