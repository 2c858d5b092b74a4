"""Rewrites HDF5 files with h5py. Runs only in a child process; see `process.py`.

Unchanged datasets are copied as stored, with their attributes; groups keep their attributes and creation properties.
Datasets are created in their old order, because that order identifies the layers of Keras files. No object gets a time
stamp.
"""

from __future__ import annotations

from math import prod
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5p, h5s, h5t, h5z

from ....errors import DamagedError, UnsupportedError
from . import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pipe import ParentPipe

_LONGEST = 64512  # largest attribute in bytes, as in Keras
_KEPT_FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_LZF, h5z.FILTER_FLETCHER32)
_FOREIGN = ("bfloat16", "float8_", "float4_")  # dtypes that NumPy knows once ml_dtypes is imported, but h5py does not
_LIBVER = {0: "earliest", 1: "earliest", 2: "v108"}


class _SentValues:
    """The data sent by the parent, read in pieces of any length."""

    def __init__(self, parent: ParentPipe) -> None:
        self._chunks = parent.data()
        self._held = bytearray()

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        while len(self._held) < length:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise DamagedError("received too few values")
            self._held += chunk
        found = bytes(self._held[:length])
        del self._held[:length]
        return found

    def end(self) -> None:
        """Check that all data has been read."""
        if self._held or next(self._chunks, None) is not None:
            raise DamagedError("received too many values")


def write(parent: ParentPipe, sources: list[h5py.File], view: reading.View, request: dict[str, Any]) -> dict[str, Any]:
    """Write a file as the parent describes it: its groups, their lists, and its datasets.

    libhdf5 puts headers into holes in the file. If that changes their order, the parent can request a file in which
    holes are not reused, a kind that few other programs write.

    Returns:
        A dict; `ordered`: whether the headers of the datasets are in creation order.
    """
    plist = sources[0].id.get_create_plist()
    version = _LIBVER.get(plist.get_version()[0], "v110")
    tracks = bool(plist.get_link_creation_order() & h5p.CRT_ORDER_TRACKED)
    block = plist.get_userblock()
    values = _SentValues(parent)
    holes = {"fs_strategy": "none"} if request["strict"] else {}
    addresses: list[int] = []
    with h5py.File(view, "w", libver=(version, "latest"), userblock_size=block, track_order=tracks, **holes) as out:
        for number, old, new in request["groups"]:
            source = h5o.open(sources[number].id, _name(old) or b"/") if number >= 0 else None
            made = h5g.open(out.id, b"/") if not new else None
            if made is None:
                made = h5g.create(out.id, _name(new), None, reading.group_plist(source))
            lists = request["lists"].get(new, {})
            if source is not None:
                _copy_attributes(source, made, lists)
            for name, each in lists.items():
                _write_list(made, source, name, each)
        for each in request["datasets"]:
            number, old = each["source"]
            if each["form"] is None:
                _copy(sources[number], old, out, each["path"])
            else:
                like = h5o.open(sources[number].id, _name(old)) if old is not None else None
                _create(out, each["path"], each["form"], like, values)
            addresses.append(h5o.get_info(out.id, _name(each["path"])).addr)
    values.end()
    return {"ordered": addresses == sorted(addresses)}


def _name(path: str | None) -> bytes:
    return (path or "").encode("utf-8", "surrogateescape")


def _copy(source: h5py.File, old: str, out: h5py.File, new: str) -> None:
    """Copy a dataset or a named dtype.

    An uncompressed dataset is created as Keras would, with a header of the usual length: the headers of libhdf5's own
    copies are shorter and fit into more holes.
    """
    found = h5o.open(source.id, _name(old))
    is_dataset = isinstance(found, h5d.DatasetID)
    if is_dataset:
        _check_references(found)
    if not is_dataset or found.get_create_plist().get_layout() != h5d.CONTIGUOUS or not reading.is_raw(found):
        h5o.copy(source.id, _name(old), out.id, _name(new))
        return
    kind, shape = found.get_type(), found.shape
    made = h5d.create(out.id, _name(new), kind, found.get_space(), reading.copied_plist(found))
    _copy_attributes(found, made, {})
    if not found.get_storage_size():
        return
    for block in reading.blocks(shape, kind.get_size(), None):
        data = reading.read_block(found, block, np.dtype(f"V{kind.get_size()}"), kind)
        _write_block(made, block, data, kind)


def _write_block(dataset: Any, block: tuple[tuple[int, int], ...], data: Any, kind: Any) -> None:
    counts = tuple(stop - start for start, stop in block)
    where = dataset.get_space()
    if counts:
        where.select_hyperslab(tuple(start for start, _ in block), counts)
    memory = h5s.create_simple(counts) if counts else h5s.create(h5s.SCALAR)
    dataset.write(memory, where, data, kind)


def _check_references(dataset: Any) -> None:
    kinds = [dataset.get_type()]
    kinds += [h5a.open(dataset, index=number).get_type() for number in range(h5a.get_num_attrs(dataset))]
    if any(kind.detect_class(h5t.REFERENCE) for kind in kinds):
        what = f"{reading.text(h5py.h5i.get_name(dataset)[1:])} refers to other objects; these references would be lost"
        raise UnsupportedError(what, hint="only values can be set in such a file")


def _copy_attributes(source: Any, made: Any, without: dict[str, Any]) -> None:
    for number in range(h5a.get_num_attrs(source)):
        attribute = h5a.open(source, index=number)
        text = reading.text(attribute.name)
        if text in without or text.rstrip("0123456789") in without:
            continue
        kind, space = attribute.get_type(), attribute.get_space()
        if kind.detect_class(h5t.REFERENCE):
            what = f"the attribute {text} refers to other objects; these references would be lost"
            raise UnsupportedError(what, hint="only values can be set in such a file")
        new = h5a.create(made, attribute.name, kind, space)
        if space.get_simple_extent_type() != h5s.NULL and space.get_simple_extent_npoints():
            values = np.empty(attribute.shape, attribute.dtype)
            attribute.read(values)
            new.write(values)


def _write_list(made: Any, source: Any | None, name: str, names: list[str]) -> None:
    """Write a list of names as Keras does: split to fit into attributes, with the same kind of strings as before."""
    fixed = False
    if source is not None:
        for each in (name, f"{name}0"):
            if h5a.exists(source, each.encode()):
                kind = h5a.open(source, each.encode()).get_type()
                fixed = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    data = [_name(each) for each in names]
    widest = max(map(len, data), default=0)
    pieces = 1
    while -(-len(data) // pieces) * max(widest, 16) > _LONGEST and pieces < len(data):
        pieces += 1
    for number, piece in enumerate(np.array_split(np.array(data, object), pieces)):
        key = name if pieces == 1 else f"{name}{number}"
        attributes = h5py.AttributeManager(h5py.Group(made))
        if not data:
            attributes.create(key, np.empty(0, np.float64))
        elif fixed or pieces > 1:
            attributes.create(key, np.array(list(piece), f"S{max(widest, 1)}"))
        else:
            is_ascii = all(each.isascii() for each in data)
            attributes.create(key, piece, dtype=h5py.string_dtype("ascii" if is_ascii else "utf-8"))


def _create(out: h5py.File, path: str, form: dict[str, Any], like: Any | None, values: _SentValues) -> None:
    """Create a dataset with the properties of another, and fill it.

    Args:
        out: the file.
        path: path of the new dataset.
        form: dtype, shape, item, whether the dtype is that of `like`; for strings, the length of the data sent.
        like: the dataset whose properties are used, or None.
        values: its values.
    """
    shape, dtype, item = tuple(form["shape"]), form["dtype"], form["item"]
    same = like is not None and form["same"]
    kind = like.get_type() if same and like is not None else _type(dtype, item)
    space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    if like is not None and like.shape == shape:
        space = like.get_space()
    plist = _plist(like, shape, same)
    dataset = h5d.create(out.id, _name(path), kind, space, plist)
    if like is not None:
        _check_references(like)
        _copy_attributes(like, dataset, {} if same else {"dtype": None})
    if not same and isinstance(kind, h5t.TypeOpaqueID):
        h5py.AttributeManager(h5py.Dataset(dataset))["dtype"] = dtype
    if dtype == "string":
        _write_strings(dataset, shape, values.take(form["length"]))
        return
    chunks = plist.get_chunk() if plist.get_layout() == h5d.CHUNKED else None
    for block in reading.blocks(shape, item, chunks):
        counts = tuple(stop - start for start, stop in block)
        data = np.frombuffer(values.take(prod(counts) * item), f"V{item}").reshape(counts)
        _write_block(dataset, block, data, kind)


def _type(dtype: str, item: int) -> Any:
    if dtype == "string":
        return h5t.py_create(h5py.string_dtype(), logical=True)
    if dtype.startswith(_FOREIGN):
        return h5t.py_create(np.dtype(f"V{item}"), logical=True)  # as h5py stores dtypes unknown to NumPy
    return h5t.py_create(np.dtype(dtype).newbyteorder("<"), logical=True)


def _plist(like: Any | None, shape: tuple[int, ...], same: bool) -> Any:
    if like is not None and same and like.shape == shape:
        return reading.copied_plist(like)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    old = like.get_create_plist() if like is not None else None
    if like is not None and old is not None and like.shape == shape and old.get_layout() == h5d.CHUNKED:
        plist.set_chunk(old.get_chunk())
        for number in range(old.get_nfilters()):
            code, flags, numbers, _ = old.get_filter(number)
            if code in _KEPT_FILTERS:
                plist.set_filter(code, flags, numbers if code == h5z.FILTER_DEFLATE else ())
    return plist


def _write_strings(dataset: Any, shape: tuple[int, ...], data: bytes) -> None:
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    values = np.empty(len(found), object)
    values[:] = found
    kind = dataset.get_type()
    if not kind.is_variable_str():
        values = values.astype(f"S{kind.get_size()}")
    h5py.Dataset(dataset)[...] = values.reshape(shape) if shape else values[0]
