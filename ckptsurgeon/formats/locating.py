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

_EXPECTED = "a checkpoint of TensorFlow, PyTorch, Keras, safetensors, npz or npy"


def locate(path: str) -> Found:
    """Find the checkpoint that a path refers to.

    Args:
        path: a prefix; its `.index`, `.data-…` or `.meta` file; a V1 file, or the `-?????-of-NNNNN` pattern of a set;
            a SavedModel folder; a folder with a `checkpoint` file; a safetensors file, the index of a set, or a Hugging
            Face folder; an npz or npy file; an HDF5 file, the `.weights.json` of a set, or a Keras file.

    Raises:
        NotFoundError: the path does not exist, or holds no checkpoint.
        UnsupportedError: the path is something else, which the message names.
        DamagedError: a folder's state file is damaged, a file is empty, or a file of a set is missing.
        StorageError: the operating system refused.
    """
    with errors.files(path):
        if not path:
            raise NotFoundError("no such checkpoint", path="''")
        found = table.of(table.DEFAULT).recognise(path)  # a bundle wins over a file of the same name, as in TensorFlow
        if found is not None:
            return found
        if is_folder(path):
            return _of_folder(path)
        candidates = [path, *_stripped(path)]
        for format in table.in_order():
            for candidate in candidates:
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
        from . import foreign

        other_format = _recognised(folder, (format for format in table.in_order() if not format.is_tensorflow))
        if other_format is not None:
            return other_format
        other = foreign.explain(folder, _EXPECTED)
        if other is not None:
            raise other
        try:
            found = sorted(os.path.basename(each.path) for each in in_folder(folder))
        except NotFoundError:
            raise NotFoundError("a folder without a checkpoint", path=folder) from None
        hint = f"name one: {', '.join(found[:3])}"
        raise NotFoundError("a folder without a 'checkpoint' file", path=folder, hint=hint)
    latest = _recognised(known.latest, table.in_order())
    if latest is None:
        if is_file(known.latest):
            raise _explain(known.latest)
        raise NotFoundError(
            "its 'checkpoint' file names a checkpoint that is not there", path=folder, found=known.latest
        )
    return latest


def in_folder(folder: str) -> list[Found]:
    """The checkpoints whose files lie in a folder.

    Raises:
        NotFoundError: the folder holds no checkpoint, or does not exist.
    """
    from . import state

    with errors.files(folder):
        if not is_folder(folder):
            raise NotFoundError("no such folder", path=folder)
        found: dict[tuple[str, ...], Found] = {}
        default = table.of(table.DEFAULT)
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if not is_file(path) or ".data-" in name or name == state.NAME or name.startswith("."):
                continue
            try:
                if name.endswith(".index"):
                    each = default.recognise(path[: -len(".index")])
                else:
                    each = _recognised(path, (format for format in table.in_order() if format is not default))
            except CkptSurgeonError:
                continue  # a file of a set is missing; opening the checkpoint reports it
            if each is not None:
                found.setdefault(tuple(each.files), each)
        if not found:
            raise NotFoundError("a folder without a checkpoint", path=folder)
        return list(found.values())


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
