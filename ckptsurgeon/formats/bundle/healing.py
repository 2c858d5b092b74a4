"""Removes what a crash left of an operation on a bundle, when the next one has nothing to write itself."""

from __future__ import annotations

import os

from ... import errors
from ...source import is_taken
from .leftovers import copies, shard_files, sweep
from .publishing import Publication
from .reading import Bundle
from .writing import use_usual_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...publish import Lock


def heal(bundle: Bundle, lock: Lock, sync: bool, wait: float, compact: bool) -> list[str]:
    """Remove staged files and superseded shards; with `compact`, also finish a `compact` that was killed halfway.

    Returns:
        Warnings.

    Raises:
        StorageError, BusyError: the leftovers could not be removed; the checkpoint is as it was.
    """
    prefix, warnings = bundle.prefix, []
    with errors.files(prefix):
        staged = any(is_taken(f"{prefix}.ckptsurgeon-tmp.{each}") for each in ("index", "data"))
        if staged or copies(prefix) or any(number != bundle.shards for _, number, _ in shard_files(prefix)):
            with Publication(prefix, sync, wait, lock, bundle.shards) as publication:
                shards = [os.stat(path) for path in bundle.data_files if os.path.exists(path)]
                warnings = sweep(prefix, bundle.shards, lock.status, shards)
                publication.close(failed=True)
    if compact:
        use_usual_names(prefix, bundle.data_files, lock, sync, wait)
    return warnings
