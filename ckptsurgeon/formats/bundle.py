"""Reads TensorFlow V2 checkpoints (TensorBundle): `<prefix>.index` and `<prefix>.data-?????-of-?????`.

The index is a table: the empty key holds the header, every other key a tensor's entry (dtype, shape, shard, offset,
size, checksum), and keys that begin with a zero byte the slices of partitioned tensors. Data shards are bare bytes.
Opening reads the index; a shard is opened when its bytes are asked for. Sources: `tensorflow/core/util/tensor_bundle/`,
`tensorflow/core/protobuf/tensor_bundle.proto`. `bundle_write.py` is the other half.
"""

from __future__ import annotations

import os

from .. import errors
from ..checkpoint import CHUNK, ITEM_SIZE, Checkpoint, Extent, Variable
from ..errors import ChangedError, DamagedError, NotFoundError
from .sstable import read_rows
from .tensor_proto import check_version, decode_shape, decode_slice, dtype_name, slice_key, slice_shape
from .wire import BYTES, FIXED32, VARINT, crc32c, fields, mask, signed64, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from .tensor_proto import Slice

MAX_SHARDS = 100_000
# Of an object-based checkpoint: what follows a variable's name in its key. `ls` leaves it out.
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def shard_path(prefix: str, shard: int, shards: int) -> str:
    """The file of a data shard (`core/util/tensor_bundle/naming.cc`)."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


class Entry:
    """A BundleEntryProto: where one tensor, or one slice of one, lies.

    Attributes:
        shape: the still encoded TensorShapeProto.
        crc: masked CRC-32C of the stored bytes.
        slices: the still encoded TensorSliceProtos; where there are any, the other fields but dtype and shape mean
            nothing.
    """

    __slots__ = ("crc", "dtype", "offset", "shape", "shard", "size", "slices")

    def __init__(self, message: bytes) -> None:
        self.dtype = self.shard = self.offset = self.size = self.crc = 0
        self.shape = b""
        self.slices: list[bytes] = []
        for number, kind, value, _ in fields(message):
            if number == 2 and kind == BYTES:
                self.shape = value
            elif number == 7 and kind == BYTES:
                self.slices.append(value)
            elif number == 6 and kind == FIXED32:
                self.crc = value
            elif kind == VARINT:
                if number == 1:
                    self.dtype = value
                elif number == 3:
                    self.shard = signed64(value)
                elif number == 4:
                    self.offset = signed64(value)
                elif number == 5:
                    self.size = signed64(value)


class Bundle(Checkpoint):
    """A TensorFlow V2 checkpoint, open for reading.

    Args:
        prefix: path without `.index`.

    Raises:
        NotFoundError: no such index.
        DamagedError: the index is cut short, has a wrong checksum, or contradicts itself.

    Attributes:
        rows: the index as it stands: key -> encoded entry; the empty key is the header.
        shards: number of data shards.
        stray: keys of slices that belong to no tensor.
    """

    format = "tf-v2"

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.prefix = prefix
        self.rows: dict[bytes, bytes] = {}
        self.shards = 0
        self.stray: list[bytes] = []
        self.index_path = prefix + ".index"
        with errors.files(self.index_path):
            fd = self.file(self.index_path)
            self.index_status = os.fstat(fd)
            try:
                self._read_index(fd, self.index_status.st_size)
            except BaseException:
                self.close()
                raise

    def _read_index(self, fd: int, size: int) -> None:
        for key, value in read_rows(lambda offset, length: os.pread(fd, length, offset), size):
            self.rows[key] = value
        if b"" not in self.rows:
            raise DamagedError("damaged: the index has no header, or is no index of a TensorFlow V2 checkpoint")
        self._read_header(self.rows[b""])
        paths = [shard_path(self.prefix, shard, self.shards) for shard in range(min(self.shards, 16))]
        partitioned: list[tuple[bytes, Entry]] = []
        slice_rows: dict[bytes, bytes] = {}
        for key, value in self.rows.items():
            if not key:
                continue
            if key[0] == 0:
                slice_rows[key] = value
                continue
            try:
                entry = Entry(value)
                if entry.slices:
                    partitioned.append((key, entry))
                    self._add(key, entry.dtype, decode_shape(entry.shape), (), None)
                else:
                    shape = decode_shape(entry.shape)
                    self._add(key, entry.dtype, shape, (self._extent(entry, shape, paths),), None)
            except DamagedError as error:
                raise DamagedError(
                    f"{error.what} in the entry of {_text(key)}", expected=error.expected, found=error.found
                ) from error
        for key, entry in partitioned:
            self._add_partitioned(key, entry, slice_rows, paths)
        self.stray = list(slice_rows)
        self.oddities = [f"a slice that belongs to no variable, under the key {key!r}" for key in self.stray]

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

    def _extent(self, entry: Entry, shape: tuple[int, ...], paths: list[str]) -> Extent:
        if not 0 <= entry.shard < self.shards:
            raise DamagedError("damaged: no such shard", expected=f"0 to {self.shards - 1}", found=entry.shard)
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size >> 63:
            raise DamagedError("damaged: impossible place", found=f"{entry.size} bytes at {entry.offset}")
        item = ITEM_SIZE.get(dtype_name(entry.dtype))
        if item is not None:
            for size in shape:
                item *= size
            if item != entry.size:
                raise DamagedError("damaged: wrong size", expected=f"{item} bytes", found=entry.size)
        path = paths[entry.shard] if entry.shard < len(paths) else shard_path(self.prefix, entry.shard, self.shards)
        return Extent(path, entry.offset, entry.size, entry.crc)

    def _add(
        self,
        key: bytes,
        dtype: int,
        shape: tuple[int, ...],
        extents: tuple[Extent, ...],
        slices: tuple[Slice, ...] | None,
    ) -> None:
        name = _text(key)
        if name.endswith(VALUE_SUFFIX) and len(name) > len(VALUE_SUFFIX):
            short = name[: -len(VALUE_SUFFIX)]
            if short.encode("utf-8", "surrogateescape") not in self.rows:
                name = short
        self.variables[name] = Variable(name, key, dtype_name(dtype), shape, extents, slices)

    def _add_partitioned(self, key: bytes, entry: Entry, slice_rows: dict[bytes, bytes], paths: list[str]) -> None:
        name = _text(key)
        shape = decode_shape(entry.shape)
        if len(entry.slices) > len(slice_rows):  # each slice has a row of its own
            raise DamagedError(f"damaged: {name} lacks slices", expected=len(entry.slices), found=len(slice_rows))
        slices: list[Slice] = []
        extents: list[Extent] = []
        for message in entry.slices:
            extents_of_slice = decode_slice(message, shape)
            row = slice_rows.pop(slice_key(key, extents_of_slice), None)
            if row is None:
                raise DamagedError(f"damaged: {name} lacks its slice {list(extents_of_slice)}, or lists it twice")
            piece = Entry(row)
            piece_shape = slice_shape(extents_of_slice, shape)
            if piece.dtype != entry.dtype or decode_shape(piece.shape) != piece_shape:
                raise DamagedError(
                    f"damaged: a slice of {name} is of another kind than {name}",
                    expected=f"{dtype_name(entry.dtype)} {list(piece_shape)}",
                    found=f"{dtype_name(piece.dtype)} {list(decode_shape(piece.shape))}",
                )
            slices.append(extents_of_slice)
            extents.append(self._extent(piece, piece_shape, paths))
        _check_cover(name, shape, slices)
        self._add(key, entry.dtype, shape, tuple(extents), tuple(slices))

    # -- Checkpoint

    def find(self, name: str) -> Variable | None:
        """As `Checkpoint.find`; the full key of an object-based variable works too."""
        variable = super().find(name)
        if variable is None and name.endswith(VALUE_SUFFIX):
            variable = self.variables.get(name[: -len(VALUE_SUFFIX)])
        return variable

    def file(self, path: str) -> int:
        """As `Checkpoint.file`.

        Raises:
            ChangedError: the file is gone because the checkpoint was replaced since it was opened.
        """
        try:
            return super().file(path)
        except NotFoundError as error:
            if path != self.index_path and self.was_replaced():
                raise ChangedError("was replaced while it was read; try again", path=self.prefix) from error
            raise

    def was_replaced(self) -> bool:
        """Whether the index that stands at the path is no longer the one that was opened."""
        try:
            now = os.stat(self.index_path)
        except OSError:
            return True
        return not os.path.samestat(now, self.index_status)

    @property
    def data_files(self) -> list[str]:
        """As `Checkpoint.data_files`: the shards by number."""
        return [shard_path(self.prefix, shard, self.shards) for shard in range(self.shards)]

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`."""
        fd = self.file(extent.file)
        at, end = extent.offset, extent.offset + extent.length
        with errors.files(extent.file):
            size = os.fstat(fd).st_size
            if end > size:
                raise DamagedError("cut short", expected=f"at least {end} bytes", found=size)
            while at < end:
                chunk = os.pread(fd, min(CHUNK, end - at), at)
                if not chunk:
                    raise DamagedError("cut short while it was read", expected=f"at least {end} bytes", found=at)
                at += len(chunk)
                yield chunk

    def checked_chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `chunks`, of a numeric extent; the last chunk is given only if the checksum of all is right.

        Raises:
            DamagedError: it is wrong.
            ChangedError: it is wrong because the checkpoint was replaced since it was opened.
        """
        crc = done = 0
        for chunk in self.chunks(extent):
            crc = crc32c(chunk, crc)
            done += len(chunk)
            if done == extent.length:
                self._compare(mask(crc), extent)
            yield chunk
        if not extent.length:
            self._compare(mask(0), extent)

    def checked_stream(self, extent: Extent, dtype: str, count: int) -> Iterator[bytes]:
        """As `checked_chunks`, of `count` strings or variants; they are read once before the first chunk is given."""
        from .bundle_strings import stream_crc

        self._compare(stream_crc(self, extent, dtype, count), extent)
        return self.chunks(extent)

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`."""
        for extent, count in zip(variable.extents, extent_sizes(variable), strict=True):
            if variable.is_numeric:
                for _ in self.checked_chunks(extent):
                    pass
            else:
                self.checked_stream(extent, variable.dtype, count)

    def _compare(self, found: int, extent: Extent) -> None:
        """Compare a masked CRC-32C with the stored one."""
        if found == extent.crc:
            return
        if self.was_replaced():
            raise ChangedError("was replaced while it was read; try again", path=self.prefix)
        raise DamagedError(
            f"damaged: wrong checksum of the {extent.length} bytes at {extent.offset}",
            path=extent.file,
            expected=f"{extent.crc:08x}",
            found=f"{found:08x}",
            hint="restore the file from a copy",
        )

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`."""
        from . import bundle_values

        return bundle_values.read(self, self[name])

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; of a variant, the stored bytes."""
        if variable.dtype != "string":
            return sum(extent.length for extent in variable.extents)
        total = 0
        if variable.size == 1 and len(variable.extents) == 1:
            stored = variable.extents[0].length - 4  # one length and its checksum stand before the bytes
            for digits in range(1, 11):
                if stored >= digits and len(varint(stored - digits)) == digits:
                    return stored - digits
        from .bundle_strings import string_lengths

        for extent, count in zip(variable.extents, extent_sizes(variable), strict=True):
            try:
                total += sum(string_lengths(self, extent, count)[0])
            except NotFoundError:
                return None
        return total

    def fingerprint(self) -> str:
        """SHA-256 of the index, which holds a checksum of every byte of data, as hexadecimal digits."""
        import hashlib

        return hashlib.sha256(os.pread(self.file(self.index_path), self.index_status.st_size, 0)).hexdigest()


def extent_sizes(variable: Variable) -> list[int]:
    """The number of elements in each extent of a variable."""
    if variable.slices is None:
        return [variable.size]
    sizes = []
    for extents in variable.slices:
        size = 1
        for length in slice_shape(extents, variable.shape):
            size *= length
        sizes.append(size)
    return sizes


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def _check_cover(name: str, shape: tuple[int, ...], slices: list[Slice]) -> None:
    """Slices must cover their tensor, each element once: they add up to it, and no two meet."""
    elements = covered = 1
    for size in shape:
        elements *= size
    boxes = []
    covered = 0
    for extents in slices:
        volume = 1
        box = []
        for (start, length), size in zip(extents, shape, strict=True):
            length = size if length < 0 else length
            volume *= length
            box.append((start, start + length))
        covered += volume
        boxes.append(box)
    # Sorted by where they begin in the first dimension, only boxes that begin before one ends there can meet it.
    boxes.sort()
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            if shape and other[0][0] >= box[0][1]:
                break
            if all(a[0] < b[1] and b[0] < a[1] for a, b in zip(box, other, strict=True)):
                raise DamagedError(f"damaged: slices of {name} overlap", found=f"{box} and {other}")
    if covered != elements:
        raise DamagedError(f"damaged: the slices of {name} do not cover it", expected=elements, found=covered)
