"""Copies a whole checkpoint, file by file, every checksum verified; the copy becomes visible by its last rename."""

from __future__ import annotations

import os
import re

from .. import errors
from ..checkpoint import CHUNK, Checkpoint
from ..errors import RefusedError
from ..plan import Plan
from ..publish import remove, write_file
from ..source import open_source
from .bundle.publishing import LinkSource, Publication
from .bundle.reading import Bundle
from .bundle.writing import save_at
from .keras.reading import Hdf5
from .safetensors.reading import SafeTensors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


_INDEXES = (".safetensors.index.json", ".weights.json")
_NUMBERED = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.safetensors\Z")  # of the first file of a set without an index


def copy(checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Copy a whole checkpoint to `out`: a prefix, of a SavedModel a folder.

    Returns:
        Warnings.

    Raises:
        DamagedError: a checksum is wrong; nothing was written.
        RefusedError: there is one already, without `force`; or it is a V1 checkpoint of several files.
        StorageError: the operating system refused; an old checkpoint is unharmed.
    """
    for variable in checkpoint.variables.values():
        checkpoint.check(variable)
    if isinstance(checkpoint, Bundle):
        if checkpoint.folder is not None:
            from .bundle import saved_model

            return saved_model.save_as(Plan(checkpoint, []), out, False, force, sync, wait)
        warnings = _copy_bundle(checkpoint, out, force, sync, wait)
    else:
        warnings = _copy_files(checkpoint, out, force, sync)
    meta = checkpoint.main_file.removesuffix(".index") + ".meta"
    if checkpoint.format.startswith("tf-") and os.path.isfile(meta):
        write_file(out + ".meta", _chunks(meta), sync)
    return warnings


def _copy_bundle(bundle: Bundle, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    copies = [f"{out}.ckptsurgeon-tmp.copy-{shard:05d}" for shard in range(bundle.shards)]

    def commit(publication: Publication, exact: bool) -> list[str]:
        sources = [LinkSource(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), True) for path in copies]
        try:
            return publication.commit(bundle.rows, sources, exact, bundle.index_bytes())
        finally:
            for source in sources:
                os.close(source.fd or 0)

    with errors.files(out):
        try:
            for path, copied in zip(bundle.data_files, copies, strict=True):
                write_file(copied, _chunks(path), sync=False)
            warnings = save_at(out, commit, force, sync, wait)
        finally:
            left = [path for path in copies if not _is_gone(path)]
    return warnings + [f"{path}: written, but not tidied up" for path in left]


def _is_gone(path: str) -> bool:
    try:
        remove(path)
    except OSError:  # the copy stands all the same
        return False
    return True


def _copy_files(checkpoint: Checkpoint, out: str, force: bool, sync: bool) -> list[str]:
    is_zip = checkpoint.format == "keras-zip"  # one file, however many are in it
    if isinstance(checkpoint, SafeTensors | Hdf5) and checkpoint.files != [checkpoint.main_file] and not is_zip:
        return _copy_set(checkpoint, out, sync)
    if checkpoint.shards > 1 and not is_zip:
        raise RefusedError(
            "a checkpoint of several files, which no single rename can put in place",
            path=checkpoint.path,
            hint="'convert --to v1' makes one file of it",
        )
    if os.path.lexists(out) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    write_file(out, _chunks(checkpoint.main_file), sync)
    return []


def _copy_set(checkpoint: Checkpoint, out: str, sync: bool) -> list[str]:
    """Copy the files of a set, under names like OUT's, and last its index, which makes them one."""
    assert isinstance(checkpoint, SafeTensors | Hdf5)
    new = _names(checkpoint, out)
    paths = [os.path.join(os.path.dirname(out), name) for name in new.values()]
    taken = next((path for path in [*paths, out] if os.path.lexists(path)), None)
    if taken is not None:
        what = "exists already, and no single rename replaces a set of files"
        raise RefusedError(what, path=taken, hint="choose another name")
    written: list[str] = []
    try:
        for source, path in zip(checkpoint.files, paths, strict=True):
            written.append(path)
            write_file(path, _chunks(source), sync)
        if checkpoint.main_file not in checkpoint.files:
            written.append(out)
            write_file(out, _index(checkpoint.main_file, new), sync)
    except BaseException:
        for path in reversed(written):
            _is_gone(path)
        raise
    return []


def _names(checkpoint: SafeTensors | Hdf5, out: str) -> dict[str, str]:
    """The names of the files of a set, and those of their copies.

    Raises:
        RefusedError: OUT is no name of a set of this kind.
    """
    main, old = os.path.basename(checkpoint.main_file), [os.path.basename(each) for each in checkpoint.files]
    ending = next((each for each in _INDEXES if main.endswith(each)), "")
    if ending and os.path.basename(out).endswith(ending) and os.path.basename(out) != ending:
        before, after = main.removesuffix(ending), os.path.basename(out).removesuffix(ending)
        if all(name.startswith(before) for name in old):
            return {name: after + name[len(before) :] for name in old}
        return {name: name for name in old}
    one, other = (re.search(_NUMBERED, name) for name in (old[0], os.path.basename(out)))
    if not ending and one and other and one[0] == other[0]:
        after = os.path.basename(out)[: other.start()]
        return {name: after + name[one.start() :] for name in old}
    raise RefusedError(
        "a checkpoint of several files, whose copy is a set too",
        path=checkpoint.path,
        expected=f"a name like OUT{ending or (one[0] if one else '')}",
        hint=None if checkpoint.format == "hdf5" else "'convert --to safetensors' makes one file of it",
    )


def _index(path: str, new: dict[str, str]) -> bytes:
    """The text of an index with the new names of its files; as it stands if these are the old ones."""
    data = b"".join(_chunks(path))
    if all(name == other for name, other in new.items()):
        return data
    import json

    index = json.loads(data)
    for name, files in index["weight_map"].items():
        moved = [new[each] for each in files] if isinstance(files, list) else new[files]
        index["weight_map"][name] = moved
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def _chunks(path: str) -> Iterator[bytes]:
    with errors.files(path), open_source(path) as file:
        at = 0
        while chunk := file.read(at, CHUNK):
            at += len(chunk)
            yield chunk
