"""Copies a whole bundle: data files under temporary names first, then index and data in one publication."""

from __future__ import annotations

from contextlib import ExitStack

from ... import errors
from ...checkpoint import Checkpoint
from ...errors import ChangedError
from ...publish import write_file
from ...source import LocalFile
from ..copying import chunks_of, copy_meta, is_gone
from .publishing import LinkSource, Publication
from .reading import Bundle
from .writing import save_at


def copy(checkpoint: Checkpoint, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Copy a bundle whose checksums have all been verified to the prefix `out`, with the `.meta` file next to it.

    Returns:
        Warnings.

    Raises:
        RefusedError: a checkpoint exists at `out`, and `force` is not set.
        StorageError: the operating system refused; an existing checkpoint is unharmed.
    """
    assert isinstance(checkpoint, Bundle)
    return _copy(checkpoint, out, force, sync, wait) + copy_meta(checkpoint, out, sync)


def _copy(bundle: Bundle, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    copies = [f"{out}.ckptsurgeon-tmp.copy-{shard:05d}" for shard in range(bundle.shards)]

    def commit(publication: Publication, exact: bool) -> list[str]:
        with ExitStack() as stack:
            files = [stack.enter_context(LocalFile(path)) for path in copies]
            sources = [LinkSource(file.path, file.fd, True) for file in files]
            return publication.commit(bundle.rows, sources, exact, bundle.index_bytes())

    with errors.files(out):
        try:
            sources = [bundle.file(path) for path in bundle.data_files]  # all open before the check
            if bundle.was_replaced():
                raise ChangedError("was replaced while it was read; try again", path=bundle.path)
            for source, copied in zip(sources, copies, strict=True):
                write_file(copied, chunks_of(source), sync=False)
            warnings = save_at(out, commit, force, sync, wait)
        finally:
            left = [path for path in copies if not is_gone(path)]
    return warnings + [f"{path}: written, but not tidied up" for path in left]
