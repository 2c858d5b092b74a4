"""Writes TensorFlow V2 checkpoints: carries out a plan in place or as a new checkpoint, and writes new ones."""

from __future__ import annotations

import os

from ... import errors
from ...errors import CkptSurgeonError, RefusedError, UnsupportedError
from ...plan import Plan
from ...publish import Lock, remove
from ...source import is_taken, local, size_of
from ..tensorflow.tensors import NUMBERS, encode_shape
from .layout import carried_rows, linked_set, single_shard
from .leftovers import shard_files
from .publishing import LinkSource, Publication
from .reading import Bundle
from .rows import header_row, new_entry_row, shard_of
from .shards import shard_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray


def save_in_place(plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan in its recipient, whose index is locked; `link` links the donor's shards without reading them.

    Returns:
        Warnings.

    Raises:
        BusyError, ChangedError: as `Publication.commit`.
        DamagedError: a donor's bytes contradict their checksum; the recipient is unharmed.
        StorageError: the operating system refused; the recipient is unharmed.
    """
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    check(plan, None)
    with Publication(bundle.prefix, sync, wait, lock, bundle.shards) as publication:
        if not any(change.content for change in plan.changes):
            publication.commit_index(carried_rows(plan))
        else:
            publication.commit(*linked_set(plan, publication, link))
        return publication.warnings


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new bundle at the prefix `out`: live bytes in one shard, or with `link` links, no copies.

    Raises:
        RefusedError: a checkpoint exists at `out`, and `force` is not set; and as `save_in_place`.
    """
    check(plan, out)

    def commit(publication: Publication, exact: bool) -> list[str]:
        if link:
            return publication.commit(*linked_set(plan, publication, link), exact)
        return publication.commit(*single_shard(plan, publication), exact)

    return save_at(out, commit, force, sync, wait)


def check(plan: Plan, out: str | None) -> None:
    """Check from the metadata whether a plan can be carried out at `out`, or with None in its recipient.

    Raises:
        UnsupportedError, Problems: dtypes that TensorFlow does not have.
    """
    problems: list[CkptSurgeonError] = []
    for result in plan.results():
        if result.variable.dtype not in NUMBERS:
            what = f"{result.variable.name}: a TensorFlow checkpoint cannot hold {result.variable.dtype}"
            problems.append(UnsupportedError(what, path=out or plan.recipient.path, hint="cast it, or leave it out"))
    errors.check(problems)


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True, wait: float = 30.0) -> None:
    """Write a whole new checkpoint in one shard; an existing one is replaced atomically.

    Args:
        prefix: where to write.
        arrays: name -> values of any shape; strings as objects of type bytes. Stored in the order of names.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.

    Raises:
        RefusedError: there are no variables, or a name or values cannot be stored.
        StorageError: the operating system refused; an existing checkpoint is unharmed.
    """
    from .arrays import dtype_of, encode

    if not os.path.basename(prefix) or "\0" in prefix:
        raise RefusedError("no checkpoint can have this name", path=repr(prefix), expected="a prefix")
    keys = _keys(prefix, arrays)

    def commit(publication: Publication, exact: bool) -> list[str]:
        rows = {b"": header_row(1)}
        for key in sorted(keys):
            values = arrays[keys[key]]
            dtype = dtype_of(values, keys[key])
            data, crc = encode(values, dtype, "little")
            place = publication.stage((data,), crc, 0)
            rows[key] = new_entry_row(NUMBERS[dtype], encode_shape(values.shape), place)
        return publication.commit(rows, [publication.staged_data], exact)

    save_at(prefix, commit, True, sync, wait)


def _keys(prefix: str, names: Iterable[str]) -> dict[bytes, str]:
    """Return key -> name, for the keys under which the names are stored.

    Raises:
        RefusedError: no names; a name that is empty, begins with a zero byte or is not text; two names with one key.
    """
    keys: dict[bytes, str] = {}
    for name in names:
        try:
            key = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            key = b""
        if not key or key[0] == 0 or key in keys:
            raise RefusedError(f"invalid or duplicate variable name '{name}'", path=prefix)
        keys[key] = name
    if not keys:
        raise RefusedError("a checkpoint needs variables", path=prefix)
    return keys


def delete(prefix: str) -> None:
    """Remove all files of a checkpoint, the index first; missing ones are not an error."""
    with errors.files(prefix):
        for path in (prefix + ".index", prefix + ".meta"):
            remove(path)
        for path, _, _ in shard_files(prefix):
            remove(path)


def save_at(
    prefix: str, commit: Callable[[Publication, bool], list[str]], force: bool, sync: bool, wait: float
) -> list[str]:
    """Commit at a prefix where a checkpoint may exist, which is then replaced in two steps.

    First by a set with another number, as in place; then, once the old names are free, by links under the usual names.
    """
    index = prefix + ".index"
    if not is_taken(index):
        with Publication(prefix, sync, wait, None) as publication:
            commit(publication, True)
            return publication.warnings
    if not force:
        raise RefusedError("exists already", path=prefix, hint="--force replaces it")
    with Lock(index, wait) as lock:
        return _replace(prefix, commit, lock, _shards_at(prefix), sync, wait)


def compact(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry out a plan in its recipient, whose index is locked: live bytes only, in one shard, under the usual names.

    Raises:
        As `save_in_place`.
    """
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)

    def commit(publication: Publication, exact: bool) -> list[str]:
        return publication.commit(*single_shard(plan, publication), exact)

    return _replace(bundle.prefix, commit, lock, bundle.shards, sync, wait)


def put_back(prefix: str, kept_prefix: str, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Bring back a kept version of a bundle, whose index is locked: under its former names, unless they are taken.

    Returns:
        Warnings.

    Raises:
        BusyError, ChangedError: as `Publication.commit`.
        StorageError: the operating system refused; the present checkpoint is unharmed.
    """
    present = _shards_at(prefix)
    with Bundle(kept_prefix) as kept:
        index, number = kept.index_bytes(), kept.shards
        standing = [shard_path(prefix, shard, number) for shard in range(number)]
        if present == number and all(map(_is_same, standing, kept.data_files)):
            with Publication(prefix, sync, wait, lock, present) as publication:
                publication.commit_index(kept.rows, index)
                return publication.warnings

        def commit(publication: Publication, exact: bool) -> list[str]:
            shards = [LinkSource(path, local(kept.file(path)).fd, True) for path in kept.data_files]
            return publication.commit(kept.rows, shards, exact, index)

        if number in (present, *(other for _, other, _ in shard_files(prefix))):
            return _replace(prefix, commit, lock, present, sync, wait)
        with Publication(prefix, sync, wait, lock, present) as publication:
            commit(publication, True)
            return publication.warnings


def _is_same(one: str, other: str) -> bool:
    """Whether two names are of one file, or there is neither."""
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return not os.path.lexists(one) and not os.path.lexists(other)


def _replace(
    prefix: str, commit: Callable[[Publication, bool], list[str]], lock: Lock, present: int, sync: bool, wait: float
) -> list[str]:
    """Replace a whole checkpoint: by a set with another number, then under the usual names, if these are free."""
    with Publication(prefix, sync, wait, lock, present) as publication:
        paths = commit(publication, False)
        if not publication.is_durable:
            return publication.warnings  # renaming would remove what a power cut may bring back
        try:
            use_usual_names(prefix, paths, publication.index_lock, sync, wait)
        except (CkptSurgeonError, OSError) as error:  # the result is complete, under another number
            publication.warnings.append(f"written, but not under the usual names: {error}")
        return publication.warnings


def use_usual_names(prefix: str, paths: list[str], lock: Lock, sync: bool, wait: float) -> None:
    """Rename a set whose last shards are empty to the number that it has without them, if that is free.

    Args:
        prefix: of the bundle.
        paths: its shards.
        lock: on its index.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.
    """
    with errors.files(prefix):
        live = [path for path in paths if size_of(path)] or paths[:1]
        usual = len(live) < len(paths) and live == paths[: len(live)]
        if usual and not any(number == len(live) for _, number, _ in shard_files(prefix)):
            _renumber(prefix, live, lock, sync, wait)


def _renumber(prefix: str, paths: list[str], lock: Lock, sync: bool, wait: float) -> None:
    """Rename a set whose last shards are empty to the number that it has without them."""
    with Bundle(prefix) as bundle:
        if any((shard_of(*row) or 0) >= len(paths) for row in bundle.rows.items()):
            return  # a variable without values lies in an empty shard
        with Publication(prefix, sync, wait, lock, bundle.shards) as publication:
            shards = [LinkSource(path, local(bundle.file(path)).fd, False) for path in paths]
            publication.commit(bundle.rows, shards, exact=True)


def _shards_at(prefix: str) -> int:
    try:
        with Bundle(prefix) as bundle:
            return bundle.shards
    except CkptSurgeonError:
        return 0  # damaged, and about to be replaced completely
