"""Writes TensorFlow V1 checkpoints: carries out a plan in place, or as a new checkpoint of one file.

Rows are written in the order of their keys, with one variable in memory at a time. Rows that a V1 recipient keeps are
copied byte for byte, and so are the values of a V1 donor with the same slices; all other values are decoded and encoded
again.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import ITEM_SIZE, Variable
from ...errors import BusyError, CkptSurgeonError, RefusedError
from ...plan import Copy, Fill, Plan, Result, Text
from ...publish import Lock, Staging, held_signals, remove, sync_after_commit
from ...source import is_folder, is_taken
from ..files import replacing
from ..proving import prover
from ..tensorflow.sstable_building import TableBuilder
from ..tensorflow.tensors import extent_sizes, slice_shape
from ..tensorflow.wire import bytes_field
from .reading import V1
from .rows import FIELDS, NEW_VERSION, WRITTEN, carried_meta, new_meta, new_row, renamed_row, row_keys, slices_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..tensorflow.tensors import Slice

    Tensor = bytes | memoryview
    Row = tuple[bytes, bytes]

_LARGEST = 1 << 31  # bytes of a row, as TensorFlow estimates before writing
_SLACK = 1024  # bytes that TensorFlow adds to the estimate
# Largest number of bytes per element in TensorFlow's estimate; other dtypes count with their own size.
_WORST = {
    "int8": 10, "int16": 10, "int32": 10, "int64": 10, "qint8": 10, "qint32": 10, "uint8": 2, "quint8": 2,
    "uint16": 3, "quint16": 3, "float16": 3, "string": 10,
}  # fmt: skip


def save_in_place(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry out a plan in its recipient, a V1 checkpoint of one file, which is locked.

    Returns:
        Warnings.

    Raises:
        RefusedError: a set of files, which no single rename replaces; or a result that no V1 checkpoint can hold.
        BusyError: another process saved in the meantime; nothing was changed.
        DamagedError: stored bytes that are to be copied are damaged; the recipient is unharmed.
        StorageError: the operating system refused; the recipient is unharmed.
    """
    check(plan, None)
    return _save(plan, plan.recipient.main_file, lock, sync, wait)


def check(plan: Plan, out: str | None) -> None:
    """Check from the metadata whether a plan can be carried out at `out`, or with None in its recipient.

    Raises:
        RefusedError, Problems: it cannot be carried out.
    """
    recipient = plan.recipient
    if out is None and recipient.shards > 1:
        what = f"a V1 checkpoint of {recipient.shards} files cannot be replaced in place"
        raise RefusedError(what, path=recipient.path, hint="use -o OUT")
    _check(plan, sorted(plan.results(), key=lambda result: result.key), out or recipient.path)


def save_as(plan: Plan, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as a new V1 checkpoint in the single file `out`, whatever format its recipient has.

    Returns:
        Warnings.

    Raises:
        RefusedError: a checkpoint exists at `out`, and `force` is not set; and as `save_in_place`.
    """
    if not os.path.basename(out) or "\0" in out or is_folder(out):
        raise RefusedError("no checkpoint can have this name", path=repr(out), expected="a file")
    index = out + ".index"
    if not force and (is_taken(out) or is_taken(index)):
        raise RefusedError("exists already", path=out, hint="--force replaces it")
    if is_taken(index):
        return _save_over_bundle(plan, out, index, sync, wait)
    if is_taken(out):
        with Lock(out, wait) as lock:
            return _save(plan, out, lock, sync, wait)
    return _save(plan, out, None, sync, wait)


def _save_over_bundle(plan: Plan, out: str, index: str, sync: bool, wait: float) -> list[str]:
    """Replace a V2 checkpoint: its index takes precedence over the V1 file, so removing the index is the switch."""
    from ..bundle.writing import delete

    with Lock(index, wait) as index_lock:
        if is_taken(out):
            with Lock(out, wait) as lock:
                warnings = _save(plan, out, lock, sync, wait)
        else:
            warnings = _save(plan, out, None, sync, wait)
        if not index_lock.holds():
            raise BusyError("another process saved it in the meantime", path=out, hint="try again")
        with held_signals(), errors.files(out):
            remove(index)  # the commit
            is_durable = sync_after_commit(Staging(sync), index, warnings)
            try:
                if is_durable:  # otherwise the index may come back, and needs its shards
                    delete(out)
            except CkptSurgeonError as error:
                warnings.append(f"written, but not tidied up: {error}")
    return warnings


def _save(plan: Plan, path: str, lock: Lock | None, sync: bool, wait: float) -> list[str]:
    results = sorted(plan.results(), key=lambda result: result.key)
    _check(plan, results, path)

    def fill(output: replacing.Output) -> None:
        table = TableBuilder(output.write)
        table.add(b"", _meta_row(plan))
        for result in results:
            for key, row in _rows(result):
                table.add(key, row)
        table.finish()

    return replacing.replace(path, fill, lock, sync, wait, prover("tf-v1", results, path))


# -- limits of V1 checkpoints


def _check(plan: Plan, results: list[Result], path: str) -> None:
    """Raise an error for every reason why the results cannot be stored."""
    problems: list[CkptSurgeonError] = []
    if not results:
        problems.append(RefusedError("a checkpoint needs variables", path=path))
    for number, result in enumerate(results):
        name = result.variable.name
        if number and results[number - 1].key == result.key:
            problems.append(RefusedError(f"two variables would have the name {name}", path=path))
        carried = _carried(result)
        if carried and result.key == carried.variable.key:
            continue
        if not _is_text(result.key):
            what = f"{name}: a V1 checkpoint cannot hold this name"
            problems.append(RefusedError(what, path=path, expected="UTF-8", hint="'rename' it"))
        if result.variable.dtype not in WRITTEN:
            what = f"{name}: a V1 checkpoint cannot hold {result.variable.dtype}"
            hint = "cast it" if result.variable.is_numeric else "leave it out"
            problems.append(RefusedError(what, path=path, hint=hint))
        elif _estimate(result) > _LARGEST:
            problems.append(
                RefusedError(
                    f"{name}: too large for a row of a V1 checkpoint",
                    path=path,
                    expected=f"at most {_LARGEST} bytes in a slice",
                    found=f"an estimate of {_estimate(result)}",
                )
            )
    errors.check(problems)


def _is_text(key: bytes) -> bool:
    """Return whether TensorFlow can read the key: it refuses names that are not UTF-8."""
    try:
        return bool(key.decode())
    except UnicodeDecodeError:
        return False


def _estimate(result: Result) -> int:
    """Return TensorFlow's estimate of a variable's largest row; the lengths of strings are included if known."""
    variable = result.variable
    largest = max(extent_sizes(variable), default=0)
    worst = _WORST.get(variable.dtype) or ITEM_SIZE[variable.dtype]
    payload = 0
    if variable.dtype == "string" and isinstance(result.content, Copy) and largest == variable.size:
        payload = result.content.donor.nbytes(result.content.variable) or 0
    elif isinstance(result.content, Text):
        payload = len(result.content.value)
    return len(result.key) + 32 * len(variable.shape) + _SLACK + largest * worst + payload


# -- rows


def _carried(result: Result) -> Copy | None:
    """Return the recipient's own variable if its rows are copied: it keeps its values, in a V1 checkpoint."""
    content = result.content
    return content if result.kept and isinstance(content, Copy) and isinstance(content.donor, V1) else None


def _meta_row(plan: Plan) -> bytes:
    """Return the first row: the metas of a V1 recipient, and those of new variables."""
    recipient = plan.recipient
    if not isinstance(recipient, V1):
        tensors = [bytes_field(1, new_meta(result.key, result.variable)) for result in plan.results()]
        return bytes_field(1, b"".join(tensors) + NEW_VERSION)
    tensors = []
    for result in plan.results():
        variable = result.variable
        old = recipient.variables.get(variable.name)
        if old and (old.dtype, old.shape, old.slices) == (variable.dtype, variable.shape, variable.slices):
            tensors.append(bytes_field(1, carried_meta(result.key, recipient.metas[old.key])))
        else:
            tensors.append(bytes_field(1, new_meta(result.key, variable)))
    return bytes_field(1, b"".join([*tensors, *recipient.more])) + b"".join(recipient.more_outside)


def _rows(result: Result) -> Iterator[Row]:
    """Yield the rows of a variable's slices, in the order of their keys."""
    variable = result.variable
    order = sorted((key, number) for number, key in enumerate(row_keys(result.key, variable)))
    carried = _carried(result)
    if carried:
        assert isinstance(carried.donor, V1)
        for key, number in order:
            row = carried.donor.slices.message(carried.variable, number)
            yield key, row if result.key == carried.variable.key else renamed_row(result.key, row)
        return
    tensor = _tensors(result)
    for key, number in order:
        yield key, b"".join(new_row(result.key, slices_of(variable)[number], _small(tensor(number), variable)))


def _small(tensor: Tensor, variable: Variable) -> Tensor:
    """Return the TensorProto if a row can hold it; the lengths of strings in several slices were not known before."""
    if len(tensor) + _SLACK > _LARGEST:
        raise RefusedError(f"{variable.name}: too large for a row of a V1 checkpoint", found=f"{len(tensor)} bytes")
    return tensor


def _tensors(result: Result) -> Callable[[int], Tensor]:
    """Return a function from the number of a slice to its TensorProto."""
    variable, content = result.variable, result.content
    if isinstance(content, Text):
        value = content.value
        return lambda number: bytes_field(FIELDS["string"][0], value)
    if isinstance(content, Copy) and isinstance(content.donor, V1):
        donor, source = content.donor, content.variable
        numbers = {place: number for number, place in enumerate(_places(source))}
        places = _places(variable)
        if all(place in numbers for place in places):
            return lambda number: donor.tensor(source, numbers[places[number]])
    from ..bundle import arrays as bundle_arrays
    from . import arrays

    if isinstance(content, Fill):
        import numpy as np

        from ... import numeric

        kind = numeric.dtype(variable.dtype)
        element = numeric.cast_exactly(np.asarray(content.number), kind, f"the fill value's dtype {variable.dtype}")
        shapes = [slice_shape(extents, variable.shape) for extents in slices_of(variable)]
        return lambda number: arrays.encode(np.full(shapes[number], element, kind), variable.dtype)
    parts = bundle_arrays.split(bundle_arrays.values_of(content, variable), variable)
    return lambda number: arrays.encode(parts[number], variable.dtype)


def _places(variable: Variable) -> list[Slice]:
    """Return the slices of a variable with all lengths given explicitly."""
    shape = variable.shape
    return [
        tuple((start, size if length < 0 else length) for (start, length), size in zip(extents, shape, strict=True))
        for extents in slices_of(variable)
    ]
