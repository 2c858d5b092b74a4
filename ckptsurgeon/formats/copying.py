"""Copies a whole checkpoint, file by file, every checksum verified; the copy becomes visible by its last rename."""

from __future__ import annotations

import os

from .. import errors
from ..checkpoint import CHUNK, Checkpoint
from ..errors import RefusedError
from ..plan import Plan
from ..publish import remove, write_file
from .bundle import Bundle
from .bundle_publish import Publication, Source
from .bundle_write import save_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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
            from . import saved_model

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
        sources = [Source(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), True) for path in copies]
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
    if checkpoint.shards > 1:
        raise RefusedError(
            "a checkpoint of several files, which no single rename can put in place",
            path=checkpoint.path,
            hint=f"'convert --to {'v1' if checkpoint.format == 'tf-v1' else checkpoint.format}' makes one file of it",
        )
    if os.path.lexists(out) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    write_file(out, _chunks(checkpoint.main_file), sync)
    return []


def _chunks(path: str) -> Iterator[bytes]:
    with errors.files(path), open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
