"""Copies a whole bundle: data files under temporary names first, then index and data in one publication."""

from __future__ import annotations

import os
from contextlib import ExitStack

from ... import errors
from ...checkpoint import Checkpoint
from ...errors import ChangedError
from ...publish import remove, write_file
from ...source import LocalFile
from ..copying import chunks_of, copy_meta
from .leftovers import copy_path
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
    copies = [copy_path(out, shard) for shard in range(bundle.shards)]
    made: dict[str, os.stat_result] = {}

    def commit(publication: Publication, exact: bool) -> list[str]:
        # All writers of `out` use these names, so they are made and removed under the publication's lock.
        for source, path in zip(sources, copies, strict=True):
            write_file(path, chunks_of(source), sync=False)
            made[path] = os.stat(path)
        with ExitStack() as stack:
            files = [stack.enter_context(LocalFile(path)) for path in copies]
            links = [LinkSource(file.path, file.fd, True) for file in files]
            paths = publication.commit(bundle.rows, links, exact, bundle.index_bytes())
        left.extend(_remove(made))
        return paths

    left: list[str] = []
    with errors.files(out):
        try:
            sources = [bundle.file(path) for path in bundle.data_files]  # all open before the check
            if bundle.was_replaced():
                raise ChangedError("was replaced while it was read; try again", path=bundle.path)
            warnings = save_at(out, commit, force, sync, wait)
        finally:
            left.extend(_remove(made))
    return warnings + [f"{path}: written, but not tidied up" for path in left]


def _remove(made: dict[str, os.stat_result]) -> list[str]:
    """Remove copies, unless another writer's have their names by now; return those that cannot be removed."""
    left = []
    while made:
        path, status = made.popitem()
        try:
            remove(path, only=status)
        except OSError:  # the copy is complete nevertheless
            left.append(path)
    return left
