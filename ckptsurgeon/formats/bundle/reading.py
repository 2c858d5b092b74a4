"""Reads TensorFlow V2 checkpoints (TensorBundle): `<prefix>.index` and `<prefix>.data-?????-of-?????`.

The index is a table: the empty key holds the header, every other key a tensor's entry (dtype, shape, shard, offset,
size, checksum), and keys that begin with a zero byte the slices of partitioned tensors. Data shards are bare bytes.
Opening reads the index; a shard is opened when its bytes are needed. Sources: `tensorflow/core/util/tensor_bundle/`,
`tensorflow/core/protobuf/tensor_bundle.proto`. `writing.py` is the other half.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import GRAPH, Checkpoint, Extent, Variable
from ...errors import ChangedError, DamagedError, NotFoundError
from ...names import ATTRIBUTES, VALUE_SUFFIX
from ..tensorflow.sstable import read_rows
from ..tensorflow.tensors import (
    are_whole,
    check_version,
    decode_slice,
    extent_sizes,
    incomplete,
    slice_key,
    slice_shape,
)
from ..tensorflow.wire import BYTES, VARINT, fields, signed64, varint
from .rows import decode_form, split_entry
from .shards import Shards, shard_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from ...checkpoint import Edit
    from ...source import Source
    from ..tensorflow.tensors import Slice
    from .layers import BundleGraph

MAX_SHARDS = 100_000
_ATTRIBUTES, _VALUE_SUFFIX = ATTRIBUTES.encode(), VALUE_SUFFIX.encode()


class Bundle(Checkpoint):
    """A TensorFlow V2 checkpoint, open for reading.

    Args:
        prefix: path without `.index`.
        folder: the SavedModel folder that contains it, or None.

    Raises:
        NotFoundError: no such index.
        DamagedError: the index is cut short, has a wrong checksum, or contradicts itself.

    Attributes:
        folder: the SavedModel folder that contains it, or None.
        rows: the rows of the index: key -> encoded entry; the empty key is the header.
        shards: number of data shards.
        stray: keys of slices that belong to no tensor.
    """

    format = "tf-v2"
    has_bare_extents = True

    def __init__(self, prefix: str, folder: str | None = None) -> None:
        super().__init__(prefix, prefix + ".index")
        self.prefix = prefix
        self.folder = folder
        self.rows: dict[bytes, bytes] = {}
        self.shards = 0  # until the header is read
        self.stray: list[bytes] = []
        self._paths: dict[int, str] = {}
        self._graph_read: BundleGraph | None = None
        with errors.files(self.main_file):
            try:
                self._read_index(self.main)
            except BaseException:
                self.close()
                raise

    def _read_index(self, file: Source) -> None:
        # Keys are sorted: first the header, then the slices, then the named rows. So a variable comes after its slices,
        # and the full key of an object-based variable after a key equal to its short name.
        slice_rows: dict[bytes, bytes] = {}
        for key, value in read_rows(file.read, file.size):
            self.rows[key] = value
            if not key:
                self._read_header(value)
            elif not self.shards:
                break
            elif key[0] == 0:
                slice_rows[key] = value
            else:
                try:
                    self._add(key, value, slice_rows)
                except DamagedError as error:
                    raise _within(error, _text(key[:200])) from error
        if not self.shards:
            raise DamagedError("damaged: the index has no header, or is not the index of a TensorFlow V2 checkpoint")
        for key, value in slice_rows.items():
            try:
                self._piece(value)  # stray slices are kept, so they must be valid too
            except DamagedError as error:
                raise _within(error, repr(key[:200])) from error
        self.stray = list(slice_rows)

    def _read_header(self, message: bytes) -> None:
        shards, big = 0, 0
        for number, kind, value, _ in fields(message):
            if number == 1 and kind == VARINT:
                shards = signed64(value)
            elif number == 2 and kind == VARINT:
                big = value
            elif number == 3 and kind == BYTES:
                check_version(value)
        if not 1 <= shards <= MAX_SHARDS:
            raise DamagedError("damaged: impossible number of shards", expected=f"1 to {MAX_SHARDS}", found=shards)
        if big not in (0, 1):
            raise DamagedError("damaged: unknown byte order", expected="0 (little) or 1 (big)", found=big)
        self.shards = shards
        self.byteorder = "big" if big else "little"

    def oddities(self) -> list[str]:
        """As `Checkpoint.oddities`."""
        stray = [f"a slice that belongs to no variable, under the key {key[:200]!r}" for key in self.stray]
        return stray + incomplete(self)

    def _add(self, key: bytes, row: bytes, slice_rows: dict[bytes, bytes]) -> None:
        short = key[: -len(VALUE_SUFFIX)] if key.endswith(_VALUE_SUFFIX) else b""
        name = (short if short and short not in self.rows else key).decode("utf-8", "surrogateescape")
        dtype, shape, extent, encoded = self._stored(row)
        if not encoded:
            self.variables[name] = Variable(name, key, dtype, shape, (extent,))
            return
        slices: list[Slice] = []
        extents: list[Extent] = []
        for message in encoded:
            place = decode_slice(message, shape)
            piece = slice_rows.pop(slice_key(key, place), None)
            if piece is None:
                raise DamagedError("damaged: a slice is missing, or listed twice", found=list(place))
            *kind, extent = self._piece(piece)
            if kind != [dtype, slice_shape(place, shape)]:
                raise DamagedError(
                    "damaged: a slice's dtype or shape does not match its variable",
                    expected=f"{dtype} {list(slice_shape(place, shape))}",
                    found=f"{kind[0]} {list(kind[1])}",
                )
            slices.append(place)
            extents.append(extent)
        are_whole(slices, shape)
        self.variables[name] = Variable(name, key, dtype, shape, tuple(extents), tuple(slices))

    def _piece(self, row: bytes) -> tuple[str, tuple[int, ...], Extent]:
        """Decodes a slice's row into dtype, shape and extent."""
        dtype, shape, extent, encoded = self._stored(row)
        if encoded:
            raise DamagedError("damaged: a slice that is itself partitioned")
        return dtype, shape, extent

    def _stored(self, row: bytes) -> tuple[str, tuple[int, ...], Extent, list[bytes]]:
        """Decodes an index row into dtype, shape, extent and encoded slices."""
        form, shard, offset, length, crc, slices = split_entry(row)
        dtype, shape, item, size = decode_form(form)
        if not slices:
            if not 0 <= shard < self.shards:
                raise DamagedError("damaged: no such shard", expected=f"0 to {self.shards - 1}", found=shard)
            if offset < 0 or length < 0 or offset + length >> 63:
                raise DamagedError("damaged: impossible place", found=f"{length} bytes at {offset}")
            size *= item or 1  # a string takes at least one byte
            if size != length and (item or size > length):
                more = "" if item else " or more"
                raise DamagedError("damaged: wrong size", expected=f"{size} bytes{more}", found=length)
        path = self._paths.get(shard)
        if path is None:
            path = self._paths[shard] = shard_path(self.prefix, shard, self.shards)
        return dtype, shape, Extent(path, offset, length, crc), slices

    # -- Checkpoint

    def find(self, name: str) -> Variable | None:
        """As `Checkpoint.find`; the full key of an object-based variable works too."""
        variable = super().find(name)
        full = name.removesuffix(":0")
        if variable is None and full.endswith(VALUE_SUFFIX):
            short = self.variables.get(full[: -len(VALUE_SUFFIX)])
            if short is not None and _text(short.key) == full:
                return short
        return variable

    @property
    def _graph(self) -> BundleGraph | None:
        """The object graph, read on first use; None for a checkpoint without one."""
        if self._graph_read is None and GRAPH in self.variables:
            from .layers import BundleGraph

            self._graph_read = BundleGraph(self.path, self.variables, self.data)
        return self._graph_read

    @property
    def _readable_graph(self) -> BundleGraph | None:
        """The object graph; None, after a warning, if the data file that holds it is missing."""
        graph = self._graph
        if graph is None:
            return None
        file = self.variables[GRAPH].extents[0].file
        try:
            self.file(file)
        except NotFoundError:
            what = "is missing, so layers, slots and full names are unknown where names do not tell them"
            errors.warn(self.path, f"{os.path.basename(file)} {what}")
            return None
        return graph

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """As `Checkpoint.layer_tables`; empty, after a warning, if the data file with the object graph is missing."""
        graph = self._readable_graph
        return graph.layer_tables() if graph else {}

    def slot_owners(self) -> dict[str, str]:
        """As `Checkpoint.slot_owners`; empty, after a warning, if the data file with the object graph is missing."""
        graph = self._readable_graph
        return graph.slot_owners() if graph else {}

    def full_name(self, name: str) -> str | None:
        """As `Checkpoint.full_name`; None, after a warning, if the data file with the object graph is missing."""
        graph = self._readable_graph
        return graph.full_names().get(name) if graph else None

    def key_of(self, name: str) -> bytes:
        """As `Checkpoint.key_of`, with the suffix of object-based checkpoints that `ls` leaves out."""
        key = super().key_of(name)
        return key if _ATTRIBUTES in key or GRAPH not in self.variables else key + _VALUE_SUFFIX

    def consequences(self, changes: Sequence[Edit]) -> dict[str, bytes]:
        """As `Checkpoint.consequences`: the object graph is updated."""
        return self._graph.consequences(changes) if self._graph else {}

    def file(self, path: str) -> Source:
        """As `Checkpoint.file`.

        Raises:
            ChangedError: the file is gone because the checkpoint was replaced since it was opened.
        """
        try:
            return super().file(path)
        except NotFoundError as error:
            if path != self.main_file and self.was_replaced():
                raise ChangedError("was replaced while it was read; try again", path=self.prefix) from error
            raise

    @property
    def data_files(self) -> list[str]:
        """As `Checkpoint.data_files`: the shards by number."""
        return [shard_path(self.prefix, shard, self.shards) for shard in range(self.shards)]

    @property
    def container(self) -> str:
        """As `Checkpoint.container`: the row for SavedModel folders if the bundle is in one."""
        return self.format if self.folder is None else "saved-model"

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: numbers that are not partitioned."""
        if variable.slices is not None or not variable.is_numeric:
            return None
        return self.checked_chunks(variable.extents[0]), self.byteorder

    @property
    def data(self) -> Shards:
        """The data files; a new object each time, because a reference cycle would keep the bundle alive."""
        return Shards(self.path, self.byteorder, self.file, self.was_replaced)

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`."""
        return self.data.chunks(extent)

    def checked_chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Shards.checked_chunks`."""
        return self.data.checked_chunks(extent)

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`."""
        data = self.data
        for extent, count in zip(variable.extents, extent_sizes(variable), strict=True):
            if variable.is_numeric:
                for _ in data.checked_chunks(extent):
                    pass
            else:
                from .strings import check_stream

                check_stream(data, extent, variable.dtype, count)

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`."""
        from . import arrays

        return arrays.read(self.data, self[name])

    def elements(self, variable: Variable) -> Iterator[NDArray[Any]]:
        """As `Checkpoint.elements`: in portions if the variable is numeric and not partitioned."""
        from . import arrays

        return arrays.elements(self.data, variable)

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; for a variant, the stored bytes. None also if the data are damaged."""
        if variable.dtype != "string":
            extents = variable.extents
            return extents[0].length if len(extents) == 1 else sum(extent.length for extent in extents)
        total = 0
        if variable.size == 1 and len(variable.extents) == 1:
            stored = variable.extents[0].length - 4  # the bytes are preceded by one length and its checksum
            for digits in range(1, 11):
                if stored >= digits and len(varint(stored - digits)) == digits:
                    return stored - digits
        from .strings import string_lengths

        for extent, count in zip(variable.extents, extent_sizes(variable), strict=True):
            try:
                total += sum(string_lengths(self.data, extent, count)[0])
            except (NotFoundError, DamagedError):
                return None
        return total

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of the index, which holds a checksum of every byte of data."""
        import hashlib

        return hashlib.sha256(self.index_bytes()).hexdigest()

    def index_bytes(self) -> bytes:
        """Return the bytes of the index file."""
        file = self.file(self.main_file)
        return file.read(0, file.size)


def _within(error: DamagedError, where: str) -> DamagedError:
    """Return the same error with the index entry in which it occurred."""
    return DamagedError(f"{error.what} in the entry of {where}", expected=error.expected, found=error.found)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
