"""Lists and reads HDF5 files with h5py. Runs only in a child process; see `process.py`.

Anything that refers to another file is refused: external and soft links, external storage, virtual datasets. Filters
that libhdf5 would have to load are refused too, and so are datasets whose shape claims far more than is stored.
"""

from __future__ import annotations

import io
import os
from math import prod
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from ....checkpoint import ITEM_SIZE
from ....errors import CkptSurgeonError, DamagedError, UnsupportedError
from ....publish import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pipe import ParentPipe

LISTS = ("layer_names", "weight_names")
_TEXTS = (b"name", b"dtype", b"keras_version", b"backend")
_FILTERS = {
    h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_SZIP, h5z.FILTER_NBIT,
    h5z.FILTER_SCALEOFFSET, h5z.FILTER_LZF,
}  # fmt: skip
_FLOOR = 64 << 20  # bytes; larger values may take at most _RATIO times the stored size
_RATIO = 1000
_BLOCK, _BARE_BLOCK = 16 << 20, 1 << 20  # bytes read at a time: chunked, contiguous
_PIECE = 1 << 18  # bytes sent at a time
_FLOATS = {
    h5t.IEEE_F16LE: ("float16", "<"), h5t.IEEE_F32LE: ("float32", "<"), h5t.IEEE_F64LE: ("float64", "<"),
    h5t.IEEE_F16BE: ("float16", ">"), h5t.IEEE_F32BE: ("float32", ">"), h5t.IEEE_F64BE: ("float64", ">"),
}  # fmt: skip
_OTHERS = {
    h5t.COMPOUND: "compound", h5t.ARRAY: "array", h5t.REFERENCE: "reference", h5t.BITFIELD: "bitfield",
    h5t.TIME: "time", h5t.VLEN: "vlen", h5t.OPAQUE: "opaque",
}  # fmt: skip


class View(io.RawIOBase):
    """A range of a file, as a file.

    Attributes:
        size: bytes.
        refused: the error of the operating system when a read or write failed; libhdf5 does not pass it on.
    """

    def __init__(self, fd: int, base: int, size: int) -> None:
        self._fd, self._base, self.size, self._at = fd, base, size, 0
        self.refused: str | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """As `io.IOBase.seek`."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """As `io.IOBase.tell`."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        count = max(0, min(len(buffer), self.size - self._at))
        done = 0
        try:
            while done < count:  # libhdf5 takes what a call did not read for zeros
                more = os.preadv(self._fd, [memoryview(buffer)[done:count]], self._base + self._at + done)
                if not more:
                    break
                done += more
        except OSError as error:
            self.refused = error.strerror
            raise
        self._at += done
        return done

    def write(self, data: Any) -> int:
        """As `io.RawIOBase.write`."""
        try:
            write_all(self._fd, data, self._base + self._at)  # libhdf5 does not look at how much a call wrote
        except OSError as error:
            self.refused = error.strerror
            raise
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """As `io.IOBase.truncate`."""
        self.size = self._at if size is None else size
        os.ftruncate(self._fd, self._base + self.size)
        return self.size

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True


def text(data: bytes) -> str:
    """Decode a name; invalid UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


# -- contents of a file


def walk(file: Any, size: int) -> dict[str, Any]:
    """List a file: its groups with their lists of names, and its datasets."""
    groups: list[list[Any]] = []
    datasets: list[dict[str, Any]] = []
    types: list[str] = []
    seen = {h5o.get_info(file, b"/").addr}
    budget = 10_000 + size // 16  # objects
    room = (1 << 20) + 4 * size  # bytes of all paths, which nested groups could multiply
    waiting = [(h5g.open(file, b"/"), b"")]
    while waiting:
        group, path = waiting.pop()
        groups.append([text(path), _lists(group), h5o.get_info(group).addr])
        for name in list(group):
            budget -= 1
            inner = path + b"/" + name if path else name
            room -= len(inner)
            if budget < 0 or room < 0 or not name or b"/" in name:
                raise DamagedError("damaged: invalid names, or too many of them")
            _check_link(group, name, inner)
            found = h5o.open(group, name)
            if isinstance(found, h5g.GroupID):
                address = h5o.get_info(found).addr
                if address in seen:
                    raise UnsupportedError(f"{text(inner)}: a group with more than one path")
                seen.add(address)
                waiting.append((found, inner))
            elif isinstance(found, h5d.DatasetID):
                try:
                    datasets.append({"path": text(inner), **_describe(found, size)})
                except CkptSurgeonError as error:
                    error.what = f"{text(inner)}: {error.what}"
                    raise
            else:
                types.append(text(inner))  # a named dtype
    plist = file.get_create_plist()
    return {"groups": groups, "datasets": datasets, "types": types, "block": plist.get_userblock()}


def _check_link(group: Any, name: bytes, path: bytes) -> None:
    kind = group.links.get_info(name).type
    if kind != h5l.TYPE_HARD:
        what = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}.get(kind, "a link of unknown kind")
        raise UnsupportedError(f"{text(path)} is {what}, which is never followed")


def _lists(group: Any) -> dict[str, Any]:
    """Return the attributes of a group that name layers, weights or the group itself."""
    found: dict[str, Any] = {}
    for number in range(min(h5py.h5a.get_num_attrs(group), 1 << 16)):
        attribute = h5py.h5a.open(group, index=number)
        name = attribute.name
        base = text(name).rstrip("0123456789")
        if name not in _TEXTS and base not in LISTS:
            continue
        kind = attribute.get_type()
        if isinstance(kind, h5t.TypeStringID) and attribute.get_space().get_simple_extent_type() != h5s.NULL:
            values = np.empty(attribute.shape, attribute.dtype)
            attribute.read(values)
            strings = [text(each if isinstance(each, bytes) else str(each).encode()) for each in values.ravel()]
            found[text(name)] = strings if base in LISTS else strings[0] if strings else ""
        elif base in LISTS and not prod(attribute.shape or (1,)):
            found[text(name)] = []
    return found


def _describe(dataset: Any, size: int) -> dict[str, Any]:
    """Describe a dataset: dtype, byte order, item size, shape, and the place of its values if they are contiguous."""
    plist = dataset.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL:
        raise UnsupportedError("a virtual dataset, whose values may lie in other files")
    if plist.get_external_count():
        raise UnsupportedError("its values lie in another file, which is never read")
    for number in range(plist.get_nfilters()):
        code = plist.get_filter(number)[0]
        if code not in _FILTERS or not h5z.filter_avail(code):
            raise UnsupportedError("unsupported compression", found=f"filter {code}")
    kind = dataset.get_type()
    space = dataset.get_space()
    dtype, order, item, raw = _kind(dataset, kind)
    shape: tuple[int, ...] = ()
    if space.get_simple_extent_type() == h5s.NULL:
        dtype, raw = "null", False
    elif space.get_simple_extent_ndims():
        shape = tuple(int(each) for each in space.get_simple_extent_dims())
    stored, count = dataset.get_storage_size(), prod(shape)
    claimed = count * kind.get_size()
    if claimed > max(_FLOOR, _RATIO * min(stored, size)):
        raise UnsupportedError(
            "claims far more values than are stored", expected=f"about {stored} bytes", found=claimed
        )
    place = -1
    if layout == h5d.CONTIGUOUS and stored and dtype != "null":
        place = dataset.get_offset()
        if stored < claimed or place + claimed > size:
            raise DamagedError("damaged: cut short", expected=f"at least {place + claimed} bytes", found=size)
    found = {"dtype": dtype, "order": order, "item": item, "shape": shape, "place": place if raw else -1}
    return {**found, "stored": stored, "address": h5o.get_info(dataset).addr}


def _kind(dataset: Any, kind: Any) -> tuple[str, str, int, bool]:
    """Return the name of a dtype, its byte order, its size, and whether the stored bytes are the values."""
    if isinstance(kind, h5t.TypeFloatID):
        for known, (name, order) in _FLOATS.items():
            if kind.equal(known):
                return name, order, kind.get_size(), True
        if kind.get_size() == 2 and kind.get_fields() == (15, 7, 8, 0, 7) and kind.get_ebias() == 127:
            return "bfloat16", "<" if kind.get_order() == h5t.ORDER_LE else ">", 2, True
    elif isinstance(kind, h5t.TypeEnumID):
        if kind.dtype == np.bool_:
            return "bool", "|", 1, True
        return _kind(dataset, kind.get_super())
    elif isinstance(kind, h5t.TypeIntegerID):
        size = kind.get_size()
        if kind.get_precision() == 8 * size and kind.get_offset() == 0 and size in (1, 2, 4, 8):
            order = "|" if size == 1 else "<" if kind.get_order() == h5t.ORDER_LE else ">"
            return f"{'int' if kind.get_sign() else 'uint'}{8 * size}", order, size, True
    elif isinstance(kind, h5t.TypeStringID):
        return "string", "|", 0 if kind.is_variable_str() else kind.get_size(), False
    elif isinstance(kind, h5t.TypeCompoundID):
        if kind.dtype.kind == "c" and kind.get_nmembers() == 2 and kind.get_member_offset(0) == 0:
            name, order, size, raw = _kind(dataset, kind.get_member_type(0))
            if raw and kind.get_member_offset(1) == size and kind.get_size() == 2 * size and name != "float16":
                return f"complex{16 * size}", order, 2 * size, True
        return "compound", "|", kind.get_size(), False
    elif isinstance(kind, h5t.TypeOpaqueID):
        name = str(_lists(dataset).get("dtype"))
        if name in ITEM_SIZE and ITEM_SIZE[name] == kind.get_size():
            return name, "|" if kind.get_size() == 1 else "<", kind.get_size(), True
    if kind.get_class() in _OTHERS:
        return _OTHERS[kind.get_class()], "|", kind.get_size(), False
    return kind.dtype.name, "<", kind.dtype.itemsize, False  # numbers of odd sizes, which libhdf5 converts


# -- values


def send_values(parent: ParentPipe, file: h5py.File, path: str) -> dict[str, Any]:
    """Send the values of a dataset: numbers as stored, in C order; each string preceded by its length."""
    dataset = file[path.encode("utf-8", "surrogateescape")]
    dtype, _, item, raw = _kind(dataset.id, dataset.id.get_type())
    if dtype == "string":
        out = bytearray()
        for each in np.asarray(dataset[()], object).ravel():
            value = each if isinstance(each, bytes) else bytes(each)
            out += len(value).to_bytes(8, "little") + value
            if len(out) >= _PIECE:
                parent.send(bytes(out))
                out.clear()
        parent.send(bytes(out))
        return {}
    kind = np.dtype(f"V{item}" if raw else f"<{dataset.dtype.kind}{item}")
    for block in blocks(dataset.shape, item, dataset.chunks):
        values = read_block(dataset.id, block, kind, dataset.id.get_type() if raw else None)
        data = memoryview(values.tobytes())
        for at in range(0, len(data), _PIECE // item * item):
            parent.send(bytes(data[at : at + _PIECE // item * item]))
    return {}


def is_raw(dataset: Any) -> bool:
    """Return whether the stored bytes of a dataset are its values."""
    return _kind(dataset, dataset.get_type())[3]


def read_block(dataset: Any, block: tuple[tuple[int, int], ...], dtype: Any, kind: Any | None) -> Any:
    """Read a block of a dataset: as stored if `kind` is the dataset's own dtype, otherwise converted by libhdf5."""
    counts = tuple(stop - start for start, stop in block)
    space = dataset.get_space()
    values: Any = np.empty(counts, dtype)
    if counts:
        space.select_hyperslab(tuple(start for start, _ in block), counts)
    memory = h5s.create_simple(counts) if counts else h5s.create(h5s.SCALAR)
    dataset.read(memory, space, values, *([] if kind is None else [kind]))
    return values


def blocks(shape: tuple[int, ...], item: int, chunks: tuple[int, ...] | None) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield blocks that cover an array in C order; each is a range per dimension."""
    if not prod(shape):
        return
    most = _BARE_BLOCK if chunks is None else _BLOCK
    axis, below = len(shape), item  # dimensions from `axis` on are not split
    while axis and below * shape[axis - 1] <= most:
        axis -= 1
        below *= shape[axis]
    if not axis:
        yield tuple((0, each) for each in shape)
        return
    axis -= 1
    step = max(1, most // below)
    if chunks is not None and step > chunks[axis]:
        step -= step % chunks[axis]
    for outer in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            whole = ((0, each) for each in shape[axis + 1 :])
            yield (*((at, at + 1) for at in outer), (start, min(start + step, shape[axis])), *whole)


def copied_plist(dataset: Any) -> Any:
    """Return the creation properties of a dataset, without its time stamp."""
    plist = dataset.get_create_plist().copy()
    plist.set_obj_track_times(False)
    return plist


def group_plist(group: Any | None) -> Any:
    """Return the creation properties of a group, without its time stamp."""
    plist = h5p.create(h5p.GROUP_CREATE) if group is None else group.get_create_plist().copy()
    plist.set_obj_track_times(False)
    return plist
