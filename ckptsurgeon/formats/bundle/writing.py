"""Writes TensorFlow V2 checkpoints: a plan into its recipient, in place or as a new checkpoint; and whole new ones."""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import Checkpoint, Extent, Variable
from ...errors import ChangedError, CkptSurgeonError, DamagedError, RefusedError, UnsupportedError
from ...plan import Copy, Plan, Result
from ...publish import Lock, remove
from ...source import local
from ..tensorflow.tensors import NUMBERS, encode_shape, encode_slice, same_partition, slice_shape
from ..tensorflow.wire import bytes_field
from .pieces import pieces_of
from .publishing import LinkSource, Publication, shard_files
from .reading import Bundle
from .rows import Place, entry_row, header_row, moved_row, new_entry_row, row_keys, shard_of
from .shards import shard_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from .pieces import Piece


def save_in_place(plan: Plan, lock: Lock, link: bool, sync: bool, wait: float) -> list[str]:
    """Carry a plan out in its recipient, whose index is locked; `link` shares the donor's shards, unread.

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
            publication.commit_index(_carried_rows(plan))
        else:
            publication.commit(*_linked_set(plan, publication, link))
        return publication.warnings


def save_as(plan: Plan, out: str, link: bool, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry a plan out as a new bundle at the prefix `out`: live bytes alone in one shard, or with `link` none copied.

    Raises:
        RefusedError: there is one already, without `force`; and as `save_in_place`.
    """
    check(plan, out)

    def commit(publication: Publication, exact: bool) -> list[str]:
        if link:
            return publication.commit(*_linked_set(plan, publication, link), exact)
        return publication.commit(*_single_shard(plan, publication), exact)

    return save_at(out, commit, force, sync, wait)


def check(plan: Plan, out: str | None) -> None:
    """Whether a plan can be carried out at `out`, or with None in its recipient, as far as its metadata tell.

    Raises:
        UnsupportedError, Problems: dtypes that other containers alone have.
    """
    problems: list[CkptSurgeonError] = []
    for result in plan.results():
        if result.variable.dtype not in NUMBERS:
            what = f"{result.variable.name}: a TensorFlow checkpoint holds no {result.variable.dtype}"
            problems.append(UnsupportedError(what, path=out or plan.recipient.path, hint="cast it, or leave it out"))
    errors.check(problems)


def write(prefix: str, arrays: Mapping[str, NDArray[Any]], sync: bool = True, wait: float = 30.0) -> None:
    """Write a whole new checkpoint in one shard; one that stands there is replaced atomically.

    Args:
        prefix: where.
        arrays: name -> values of any shape; strings as objects of type bytes. Stored in the order of names.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.

    Raises:
        RefusedError: no variable, a name that cannot be stored, or values that cannot.
        StorageError: the operating system refused; an old checkpoint is unharmed.
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
    """The names by the keys under which they are stored.

    Raises:
        RefusedError: there is none, one is empty, begins with a zero byte or is no text, or two share a key.
    """
    keys: dict[bytes, str] = {}
    for name in names:
        try:
            key = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            key = b""
        if not key or key[0] == 0 or key in keys:
            raise RefusedError(f"no variable can have the name '{name}', or two have it", path=prefix)
        keys[key] = name
    if not keys:
        raise RefusedError("a checkpoint needs variables", path=prefix)
    return keys


def delete(prefix: str) -> None:
    """Remove all files of a checkpoint, the index first; that some are missing is no error."""
    with errors.files(prefix):
        for path in (prefix + ".index", prefix + ".meta"):
            remove(path)
        for path, _, _ in shard_files(prefix):
            remove(path)


def save_at(
    prefix: str, commit: Callable[[Publication, bool], list[str]], force: bool, sync: bool, wait: float
) -> list[str]:
    """Commit at a prefix where a checkpoint may stand, which is then replaced in two steps.

    First by a set of another number, as in place; then, since the old names are free, by links under the usual ones.
    """
    index = prefix + ".index"
    if not os.path.lexists(index):
        with Publication(prefix, sync, wait, None) as publication:
            commit(publication, True)
            return publication.warnings
    if not force:
        raise RefusedError("exists already", path=prefix, hint="--force replaces it")
    with Lock(index, wait) as lock:
        return _replace(prefix, commit, lock, _shards_at(prefix), sync, wait)


def compact(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry a plan out in its recipient, whose index is locked: live bytes alone in one shard, under the usual names.

    Raises:
        As `save_in_place`.
    """
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)

    def commit(publication: Publication, exact: bool) -> list[str]:
        return publication.commit(*_single_shard(plan, publication), exact)

    return _replace(bundle.prefix, commit, lock, bundle.shards, sync, wait)


def _replace(
    prefix: str, commit: Callable[[Publication, bool], list[str]], lock: Lock, present: int, sync: bool, wait: float
) -> list[str]:
    """Replace a checkpoint as a whole: by a set of another number, then under the usual names, if these are free."""
    with Publication(prefix, sync, wait, lock, present) as publication:
        paths = commit(publication, False)
        live = [path for path in paths if os.path.getsize(path)] or paths[:1]
        if not any(number == len(live) for _, number, _ in shard_files(prefix)):
            try:
                _renumber(prefix, live, publication.index_lock, sync, wait)
            except CkptSurgeonError as error:  # the result stands all the same, under another number
                publication.warnings.append(f"written, but not under the usual names: {error}")
        return publication.warnings


def _renumber(prefix: str, paths: list[str], lock: Lock, sync: bool, wait: float) -> None:
    """Give a set whose last shards are empty the number that it would have without them."""
    with Bundle(prefix) as bundle, Publication(prefix, sync, wait, lock, bundle.shards) as publication:
        shards = [LinkSource(path, local(bundle.file(path)).fd, False) for path in paths]
        publication.commit(bundle.rows, shards, exact=True)


def _shards_at(prefix: str) -> int:
    try:
        with Bundle(prefix) as bundle:
            return bundle.shards
    except CkptSurgeonError:
        return 0  # damaged, and about to be replaced as a whole


def _carried_rows(plan: Plan) -> dict[bytes, bytes]:
    """The recipient's index less the rows of dropped variables, and with those of renamed ones under their new keys."""
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    rows = dict(bundle.rows)
    moved: dict[bytes, bytes] = {}
    for change in plan.changes:
        variable = bundle.variables.get(change.variable.name)
        if variable is None or change.action == "added":
            continue
        form = change.variable
        reshaped = (variable.slices, variable.dtype, variable.shape) != (form.slices, form.dtype, form.shape)
        if change.action == "dropped" or reshaped or change.key != variable.key:
            for old, new in zip(_all_keys(variable), _all_keys(variable, change.key), strict=True):
                row = rows.pop(old)
                if change.action != "dropped" and not reshaped:
                    moved[new] = row
    return {**rows, **moved}


def _all_keys(variable: Variable, key: bytes | None = None) -> list[bytes]:
    """The keys of all rows of a variable: of its extents and, if it is partitioned, the one that describes it."""
    rows = row_keys(variable, key)
    return rows if variable.slices is None else [key or variable.key, *rows]


def _linked_set(plan: Plan, publication: Publication, link: bool) -> tuple[dict[bytes, bytes], list[LinkSource]]:
    """Rows and shards that link the recipient's live shards, then with `link` the donor's, then the new bytes."""
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    rows = _carried_rows(plan)
    changed = [result for result in plan.results() if not result.kept]
    for result in changed:
        _describe(result, rows)
    linked = {id(result): result.content for result in changed if link and isinstance(result.content, Copy)}
    replaced = {key for result in changed for key in row_keys(result.variable, result.key)}
    carried = {
        key: shard for key, row in rows.items() if key not in replaced and (shard := shard_of(key, row)) is not None
    }
    live = sorted(set(carried.values()))
    numbers = {old: new for new, old in enumerate(live)}
    for key, shard in carried.items():
        if numbers[shard] != shard:
            rows[key] = moved_row(rows[key], numbers[shard])
    shards = [_source(bundle, shard_path(bundle.prefix, shard, bundle.shards), may_copy=True) for shard in live]
    donated: dict[str, int] = {}  # a donor's file -> its number; each is opened and vouched for once
    for result in changed:
        content = linked.get(id(result))
        if content is None:
            continue
        for key, extent in zip(row_keys(result.variable, result.key), content.variable.extents, strict=True):
            if extent.file not in donated:
                source = _source(content.donor, extent.file, may_copy=False)
                donated[extent.file] = _number_of(source, shards)
            place = Place(donated[extent.file], extent.offset, extent.length, extent.crc or 0)
            rows[key] = entry_row(rows[key], place)
    staged = [result for result in changed if id(result) not in linked]
    for result in staged:
        for key, piece in zip(row_keys(result.variable, result.key), pieces_of(bundle.byteorder, result), strict=True):
            rows[key] = entry_row(rows[key], publication.stage(*piece(), len(shards)))
    if staged:
        shards.append(publication.staged_data)
    return rows, shards


def _describe(result: Result, rows: dict[bytes, bytes]) -> None:
    """Add rows without a place for a variable that has none yet."""
    variable, dtype = result.variable, NUMBERS[result.variable.dtype]
    nowhere = Place(0, 0, 0, 0)
    if variable.slices is not None:
        described = new_entry_row(dtype, encode_shape(variable.shape), nowhere)
        rows.setdefault(
            result.key, described + b"".join(bytes_field(7, encode_slice(each)) for each in variable.slices)
        )
    shapes = [variable.shape] if variable.slices is None else [slice_shape(s, variable.shape) for s in variable.slices]
    for key, shape in zip(row_keys(variable, result.key), shapes, strict=True):
        rows.setdefault(key, new_entry_row(dtype, encode_shape(shape), nowhere))


def _number_of(source: LinkSource, shards: list[LinkSource]) -> int:
    """The number of a file among the shards, which it joins if it is not there yet under any name."""
    for number, shard in enumerate(shards):
        if shard.fd is not None and source.fd is not None and os.path.sameopenfile(shard.fd, source.fd):
            return number
    shards.append(source)
    return len(shards) - 1


def _source(checkpoint: Checkpoint, path: str, may_copy: bool) -> LinkSource:
    """A data file that is going to be linked unread, opened.

    Raises:
        ChangedError: the checkpoint was replaced since it was opened, so the file may be another than its index means.
        DamagedError: the file is younger than its index, as when a save is under way, and does not hold what the
            index says. This alone costs reading it.
    """
    assert isinstance(checkpoint, Bundle)
    file = local(checkpoint.file(path))
    if checkpoint.was_replaced():
        raise ChangedError("was replaced while it was read; try again", path=checkpoint.prefix)
    if os.fstat(file.fd).st_mtime_ns > local(checkpoint.main).status.st_mtime_ns:
        for variable in checkpoint.variables.values():
            if any(extent.file == path for extent in variable.extents):
                checkpoint.check(variable)
    return LinkSource(path, file.fd, may_copy)


def _single_shard(plan: Plan, publication: Publication) -> tuple[dict[bytes, bytes], list[LinkSource]]:
    """Rows and one shard with all live bytes, in the order in which the recipient holds them, then the added ones."""
    recipient = plan.recipient
    byteorder, rows = recipient.byteorder, {b"": header_row(1)}
    if isinstance(recipient, Bundle):
        if recipient.stray:
            raise DamagedError("holds slices that belong to no variable", path=recipient.path, hint="see 'verify'")
        rows = _carried_rows(plan)
    pieces: list[tuple[tuple[str, int, int], bytes, Piece, Extent | None]] = []
    for at, result in enumerate(plan.results()):
        variable = _simplified(result)
        _describe(variable, rows)
        extents = variable.variable.extents
        made = pieces_of(byteorder, variable)
        for number, (key, piece) in enumerate(zip(row_keys(variable.variable, variable.key), made, strict=True)):
            placed = isinstance(recipient, Bundle) and extents
            where = (extents[number].file, extents[number].offset, 0) if placed else ("\U0010ffff", at, number)
            pieces.append((where, key, piece, extents[number] if placed and result.kept else None))
    pieces.sort(key=lambda piece: piece[:2])
    shared: dict[tuple[str, int, int], Place] = {}
    for _, key, piece, extent in pieces:
        where = (extent.file, extent.offset, extent.length) if extent else ("", 0, 0)
        place = shared.get(where) if extent else None
        if place is None:
            place = publication.stage(*piece(), 0)
            if extent:
                shared[where] = place
        rows[key] = entry_row(rows[key], place)
    return rows, [publication.staged_data]


def _simplified(result: Result) -> Result:
    """A result as a bundle holds it: what one slice covers is not partitioned, unless the bundle has it so already."""
    variable, donor = result.variable, result.content.donor if isinstance(result.content, Copy) else None
    if (result.kept and isinstance(donor, Bundle)) or not same_partition(variable.slices, None, variable.shape):
        return result
    whole = Variable(variable.name, variable.key, variable.dtype, variable.shape, variable.extents)
    return Result(result.key, whole, result.content, result.kept)
