"""From any spelling of a checkpoint's path to its files; what a file is, told by its first bytes."""

from __future__ import annotations

import os
import re

from .. import errors
from ..errors import CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError
from . import state
from .tensorflow.sstable import MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_EXPECTED = "a checkpoint of TensorFlow, PyTorch, Keras, safetensors, npz or npy"
_SHARD = re.compile(r"(.+)-(?:\d{5}|\?{5})-of-(\d{5})", re.DOTALL)  # of a V1 checkpoint, or all of them at once


class Found:
    """A checkpoint that was found.

    Attributes:
        format: `tf-v2`, `tf-v1`, `safetensors`, `npz`, `npy`, `hdf5`, `keras-zip` or `torch`.
        path: of a V2 checkpoint the prefix; else the file's path, or of several what the user called them.
        files: all of them; of a V2 checkpoint its index. The first is the main file.
        folder: the SavedModel folder, if the path was that, or None.
    """

    __slots__ = ("files", "folder", "format", "path")

    def __init__(self, format: str, path: str, files: list[str], folder: str | None = None) -> None:
        self.format = format
        self.path = path
        self.files = files
        self.folder = folder


def locate(path: str) -> Found:
    """The checkpoint that a path means.

    Args:
        path: a prefix; its `.index`, a `.data-…` or `.meta`; a V1 file, or the `-?????-of-NNNNN` of several; a
            SavedModel folder; a folder with a `checkpoint` file; a safetensors file, the index of several, or a folder
            of Hugging Face's; an npz or npy file; an HDF5 file, the `.weights.json` of several, or a Keras file.

    Raises:
        NotFoundError: nothing is there, or no checkpoint.
        UnsupportedError: something else is there, which the message names.
        DamagedError: a folder's state file is damaged, a file is empty, or one of several is missing.
        StorageError: the operating system refused.
    """
    with errors.files(path):
        if not path:
            raise NotFoundError("no such checkpoint", path="''")
        found = _bundle(path)  # as in TensorFlow, whatever else has the bare name
        if found is None and os.path.isdir(path):
            return _of_folder(path)
        candidates = [path, *_stripped(path)]
        for look in (_bundle, _v1, _safetensors, _numpy, _keras, _torch):
            for candidate in candidates:
                found = found or look(candidate)
        if found is not None:
            return found
        if os.path.exists(path):
            raise _explain(path)
        if ".data-" in os.path.basename(path) or path.endswith(".index"):
            raise NotFoundError("no such file", path=path)
        raise NotFoundError("no such checkpoint", path=path, hint=_neighbour(path))


def _bundle(prefix: str) -> Found | None:
    """The V2 checkpoint with exactly this prefix; inside a SavedModel a bundle like any other."""
    index = prefix + ".index"
    return Found("tf-v2", prefix, [index]) if os.path.isfile(index) else None


def _v1(path: str) -> Found | None:
    """The V1 checkpoint with exactly this path, or that consists of files with this beginning."""
    shard = _SHARD.fullmatch(path)
    if os.path.isfile(path):
        if path.endswith(".index") or not _is_table(path):
            return None
        return _shards(shard[1], int(shard[2])) if shard else Found("tf-v1", path, [path])
    if shard:
        return _shards(shard[1], int(shard[2])) if "?" in path[len(shard[1]) :] else None
    return _sharded(path)


def _safetensors(path: str) -> Found | None:
    """The safetensors checkpoint that a path means: a file, one of a set or its index, or a folder."""
    if not path.endswith((".safetensors", ".json")) and not os.path.exists(path):
        return None
    from .safetensors import finding as safetensors_finding

    files = safetensors_finding.locate(path)
    return Found("safetensors", path, files) if files else None


def _numpy(path: str) -> Found | None:
    """The npz or npy file of this path."""
    if not os.path.isfile(path):
        return None
    from .npz import reading as npz_reading

    kind = npz_reading.kind_of(path)
    return Found(kind, path, [path]) if kind else None


def _one_file(path: str) -> Found | None:
    """The checkpoint of this path that is no TensorFlow one."""
    return _safetensors(path) or _numpy(path) or _keras(path) or _torch(path)


def _keras(path: str) -> Found | None:
    """The HDF5 or Keras file of this path, the index of several, or the folder of an unzipped one."""
    if not os.path.exists(path):
        return None
    from .keras import finding as keras_finding

    found = keras_finding.locate(path)
    return Found(found[0], path, found[1]) if found else None


def _torch(path: str) -> Found | None:
    """The PyTorch file of this path."""
    if not os.path.isfile(path):
        return None
    from .torch import reading as torch_reading

    return Found("torch", path, [path]) if torch_reading.is_archive(path) else None


def _shards(stem: str, count: int) -> Found | None:
    """The V1 checkpoint of this many files.

    Raises:
        DamagedError: some of them are there, others are not.
    """
    paths = [f"{stem}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    missing = [path for path in paths if not os.path.isfile(path)]
    if not paths or len(missing) == len(paths):
        return None
    if missing:
        raise DamagedError(f"a file of the checkpoint is missing: {missing[0]}", path=stem, expected=f"{count} files")
    return Found("tf-v1", stem, paths)


def _sharded(stem: str) -> Found | None:
    """The V1 checkpoint whose files begin with `stem`, if there is just one."""
    folder, base = os.path.split(stem)
    if not base or not os.path.isdir(folder or "."):
        return None
    shape = re.compile(re.escape(base) + r"-\d{5}-of-(\d{5})", re.DOTALL)
    counts = {int(match[1]) for name in os.listdir(folder or ".") if (match := shape.fullmatch(name))}
    return _shards(stem, counts.pop()) if len(counts) == 1 else None


def _is_table(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(MAGIC)))
        return file.read() == MAGIC


def _stripped(path: str) -> Iterator[str]:
    folder, base = os.path.split(path)
    for ending in (".index", ".meta"):
        if base.endswith(ending):
            yield os.path.join(folder, base[: -len(ending)])
    stem, dot, rest = base.rpartition(".data-")
    if dot and rest.replace("-of-", "").isdigit():
        yield os.path.join(folder, stem)


def _of_folder(folder: str) -> Found:
    saved = os.path.join(folder, "variables", "variables")
    if os.path.isfile(saved + ".index"):
        return Found("tf-v2", saved, [saved + ".index"], folder)
    try:
        known = state.read(folder)
    except DamagedError as error:
        from . import foreign

        raise foreign.explain(folder, _EXPECTED) or error from None  # Orbax too has a file called `checkpoint`
    if known is None:
        from . import foreign

        other_format = _safetensors(folder) or _keras(folder)
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
    latest = _bundle(known.latest) or _v1(known.latest) or _one_file(known.latest)
    if latest is None:
        if os.path.isfile(known.latest):
            raise _explain(known.latest)
        raise NotFoundError(
            "its 'checkpoint' file names a checkpoint that is not there", path=folder, found=known.latest
        )
    return latest


def in_folder(folder: str) -> list[Found]:
    """The checkpoints whose files lie in a folder.

    Raises:
        NotFoundError: there is none, or no such folder.
    """
    with errors.files(folder):
        if not os.path.isdir(folder):
            raise NotFoundError("no such folder", path=folder)
        found: dict[tuple[str, ...], Found] = {}
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or ".data-" in name or name == state.NAME or name.startswith("."):
                continue
            try:
                is_index = name.endswith(".index")
                each = _bundle(path[: -len(".index")]) if is_index else _v1(path) or _one_file(path)
            except CkptSurgeonError:
                continue  # one of several files is missing; whoever opens it will be told
            if each is not None:
                found.setdefault(tuple(each.files), each)
        if not found:
            raise NotFoundError("a folder without a checkpoint", path=folder)
        return list(found.values())


def files_of(found: Found) -> list[str]:
    """All files of a checkpoint that was found."""
    if found.format != "tf-v2":
        return found.files
    folder, base = os.path.split(found.path)
    names = (name for name in os.listdir(folder or ".") if name.startswith(f"{base}.data-"))
    return [*found.files, *(os.path.join(folder, name) for name in names)]


def _explain(path: str) -> CkptSurgeonError:
    """Why a file that exists is no checkpoint that can be opened."""
    from . import foreign

    if path.endswith(".index") or ".data-" in os.path.basename(path):
        return NotFoundError("the checkpoint's other files are not beside it", path=path)
    other = foreign.explain(path, _EXPECTED)
    if other is not None:
        return other
    if os.path.basename(path) == state.NAME and _is_state(os.path.dirname(path) or "."):
        return UnsupportedError("the state file of a folder with checkpoints", path=path, hint="name the folder")
    with open(path, "rb") as file:
        head = file.read(8)
    return UnsupportedError("not a checkpoint of a known format", path=path, found=f"first bytes {head.hex()}")


def _is_state(folder: str) -> bool:
    """Whether the file `checkpoint` of a folder is a state file."""
    try:
        return state.read(folder) is not None
    except CkptSurgeonError:
        return False


def _neighbour(path: str) -> str | None:
    folder, base = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return f"there is no folder {folder}"
    names = {name[: -len(".index")] for name in os.listdir(folder or ".") if name.endswith(".index")}
    return errors.did_you_mean(base, names)
