"""Lays out the result of a plan: the rows of the new index, and the shards to which they point."""

from __future__ import annotations

import os

from ...checkpoint import Checkpoint, Extent, Variable
from ...errors import ChangedError, DamagedError
from ...plan import Copy, Plan, Result
from ...source import local
from ..tensorflow.tensors import NUMBERS, encode_shape, encode_slice, same_partition, slice_shape
from ..tensorflow.wire import bytes_field
from .pieces import pieces_of
from .publishing import LinkSource, Publication
from .reading import Bundle
from .rows import Place, entry_row, header_row, moved_row, new_entry_row, row_keys, shard_of
from .shards import shard_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pieces import Piece


def carried_rows(plan: Plan) -> dict[bytes, bytes]:
    """Return the recipient's index without dropped variables, and with renamed ones under their new keys."""
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
    """Return the keys of all rows of a variable: its extents and, if it is partitioned, the row that describes it."""
    rows = row_keys(variable, key)
    return rows if variable.slices is None else [key or variable.key, *rows]


def linked_set(plan: Plan, publication: Publication, link: bool) -> tuple[dict[bytes, bytes], list[LinkSource]]:
    """Return rows and shards: links to the recipient's live shards, with `link` the donor's, then the new bytes."""
    bundle = plan.recipient
    assert isinstance(bundle, Bundle)
    rows = carried_rows(plan)
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
    donated: dict[str, int] = {}  # a donor's file -> its number; each file is opened and checked once
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
    """Add the index rows of a variable that has none yet, without a place."""
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
    """Return the number of a file among the shards; it is appended unless it is already there under any name."""
    for number, shard in enumerate(shards):
        if shard.fd is not None and source.fd is not None and os.path.sameopenfile(shard.fd, source.fd):
            return number
    shards.append(source)
    return len(shards) - 1


def _source(checkpoint: Checkpoint, path: str, may_copy: bool) -> LinkSource:
    """Open a shard to be hard-linked without reading it.

    Raises:
        ChangedError: the checkpoint was replaced after it was opened, so its index may describe a different file.
        DamagedError: the file is younger than its index (a save may be in progress) and does not hold what the index
            describes. Only in this case is the file read.
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


def single_shard(plan: Plan, publication: Publication) -> tuple[dict[bytes, bytes], list[LinkSource]]:
    """Return rows and one shard with all live bytes, in the recipient's order of bytes, followed by the added ones."""
    recipient = plan.recipient
    byteorder, rows = recipient.byteorder, {b"": header_row(1)}
    if isinstance(recipient, Bundle):
        if recipient.stray:
            raise DamagedError("holds slices that belong to no variable", path=recipient.path, hint="see 'verify'")
        rows = carried_rows(plan)
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
    """Return a result in a bundle's form: one slice that covers all is not partitioned, unless the bundle has it so."""
    variable, donor = result.variable, result.content.donor if isinstance(result.content, Copy) else None
    if (result.kept and isinstance(donor, Bundle)) or not same_partition(variable.slices, None, variable.shape):
        return result
    whole = Variable(variable.name, variable.key, variable.dtype, variable.shape, variable.extents)
    return Result(result.key, whole, result.content, result.kept)
