"""Tables and TensorBundles made by hand: layouts that our writer never gives, and files that lie."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from ckptsurgeon.formats.tensorflow.tensors import NUMBERS, slice_key
from ckptsurgeon.formats.tensorflow.wire import FIXED32, VARINT, bytes_field, crc32c, mask, varint

Row = tuple[bytes, bytes]
Extents = tuple[tuple[int, int], ...]  # (start, length) in every dimension; length -1 is left open

MAGIC = bytes.fromhex("57fb808b247547db")
HEADER = bytes.fromhex("08011a020801")  # one shard, little-endian, version 1
OLD_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def masked(data: bytes) -> int:
    """The checksum of bytes as it is stored."""
    return mask(crc32c(data))


def number(field: int, value: int) -> bytes:
    """A varint field, written even if it is 0."""
    return varint(field << 3 | VARINT) + varint(value)


# -- tables


def block(rows: Sequence[Row], interval: int = 16) -> bytes:
    """A block with a restart point every `interval` rows."""
    body, restarts, last = b"", [0], b""
    for at, (key, value) in enumerate(rows):
        shared = 0
        if at % interval == 0:
            restarts[at // interval :] = [len(body)]
        else:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def sealed(body: bytes, kind: int = 0) -> bytes:
    """A block with its trailer."""
    return body + bytes((kind,)) + masked(body + bytes((kind,))).to_bytes(4, "little")


def snappy(body: bytes) -> bytes:
    """A block compressed, with its trailer."""
    return sealed(bytes(cramjam.snappy.compress_raw(body)), 1)


def footer(metaindex: tuple[int, int], index: tuple[int, int], padding: bytes = b"") -> bytes:
    """The end of a table."""
    handles = b"".join(varint(part) for part in (*metaindex, *index))
    return (handles + padding).ljust(40, b"\x00") + MAGIC


def table(
    blocks: Sequence[Sequence[Row]],
    interval: int = 16,
    seal: Any = sealed,
    separators: Sequence[bytes] | None = None,
) -> bytes:
    """A table with these rows in these blocks.

    Args:
        blocks: the rows of each.
        interval: of restart points.
        seal: `sealed` or `snappy`.
        separators: the keys of the index; None: the last key of each block.
    """
    return assembled([seal(block(rows, interval)) for rows in blocks], separators or [rows[-1][0] for rows in blocks])


def assembled(blocks: Sequence[bytes], separators: Sequence[bytes], seal: Any = sealed) -> bytes:
    """A table of sealed blocks."""
    data, index = b"", []
    for stored, separator in zip(blocks, separators, strict=True):
        index.append((separator, varint(len(data)) + varint(len(stored) - 5)))
        data += stored
    return with_index(data, index, seal)


def with_index(data: bytes, index: Sequence[Row], seal: Any = sealed) -> bytes:
    """A table of these data blocks with the index that is given."""
    metaindex, stored = sealed(block([])), seal(block(index, 1))
    at = len(data)
    return data + metaindex + stored + footer((at, len(metaindex) - 5), (at + len(metaindex), len(stored) - 5))


# -- bundles


def shape_proto(shape: Iterable[int]) -> bytes:
    """A TensorShapeProto, of whatever sizes."""
    return b"".join(bytes_field(2, number(1, size)) for size in shape)


def slice_proto(extents: Extents) -> bytes:
    """A TensorSliceProto, of whatever extents."""
    return b"".join(
        bytes_field(1, (number(1, start) if start else b"") + (number(2, length) if length != -1 else b""))
        for start, length in extents
    )


def entry(
    dtype: int | str = "float32",
    shape: Iterable[int] = (),
    shard: int = 0,
    offset: int = 0,
    size: int = 0,
    crc: int = 0,
    slices: Iterable[bytes] = (),
    more: bytes = b"",
) -> bytes:
    """A BundleEntryProto, true or not; `more` is added as it is."""
    return (
        number(1, NUMBERS[dtype] if isinstance(dtype, str) else dtype)
        + bytes_field(2, shape_proto(shape))
        + number(3, shard)
        + number(4, offset)
        + number(5, size)
        + varint(6 << 3 | FIXED32)
        + crc.to_bytes(4, "little")
        + b"".join(bytes_field(7, piece) for piece in slices)
        + more
    )


def string_stream(strings: Sequence[bytes], order: Any = "little") -> tuple[bytes, int]:
    """The stored form of strings and its masked checksum, computed step by step."""
    crc, head = 0, b""
    for string in strings:
        head += varint(len(string))
        crc = crc32c(len(string).to_bytes(4, order), crc)
    check = mask(crc).to_bytes(4, order)
    crc = crc32c(check, crc)
    for string in strings:
        crc = crc32c(string, crc)
    return head + check + b"".join(strings), mask(crc)


def variant_stream(protos: Sequence[bytes]) -> tuple[bytes, int]:
    """The stored form of variants and its masked checksum."""
    crc, stream = 0, b""
    for proto in protos:
        crc = crc32c(proto, crc32c(len(proto).to_bytes(8, "little"), crc))
        check = mask(crc).to_bytes(4, "little")
        crc = crc32c(check, crc)
        stream += varint(len(proto)) + proto + check
    return stream, mask(crc)


class HandMade:
    """A bundle under construction.

    Args:
        shards: number of data files.
        big: big-endian.
        header: the header row; None: one that is true.

    Attributes:
        rows: the index; change it at will.
        data: the bytes of each shard; change them at will.
    """

    def __init__(self, shards: int = 1, big: bool = False, header: bytes | None = None) -> None:
        order = number(2, 1) if big else b""
        self.rows: dict[bytes, bytes] = {b"": header or number(1, shards) + order + bytes.fromhex("1a020801")}
        self.data = [b""] * shards
        self.order = "big" if big else "little"

    def place(self, stored: bytes, shard: int = 0, gap: int = 0) -> dict[str, int]:
        """Append bytes to a shard; the fields of an entry that say where they are."""
        self.data[shard] += b"\xee" * gap
        offset = len(self.data[shard])
        self.data[shard] += stored
        return {"shard": shard, "offset": offset, "size": len(stored), "crc": masked(stored)}

    def _stored(self, values: NDArray[Any]) -> tuple[bytes, int]:
        if values.dtype.kind == "O":
            return string_stream(values.ravel().tolist(), self.order)
        swapped = values.byteswap() if self.order == "big" else values
        return swapped.tobytes(), masked(swapped.tobytes())

    def add(self, name: str | bytes, values: NDArray[Any], shard: int = 0, gap: int = 0, **more: Any) -> None:
        """Add a tensor; `more` overrides fields of its entry."""
        key = name if isinstance(name, bytes) else name.encode()
        stored, crc = self._stored(values)
        dtype = "string" if values.dtype.kind == "O" else values.dtype.name
        fields = {"dtype": dtype, "shape": values.shape, **self.place(stored, shard, gap), "crc": crc, **more}
        self.rows[key] = entry(**fields)

    def add_sliced(self, name: str | bytes, values: NDArray[Any], slices: Sequence[Extents], **more: Any) -> None:
        """Add a partitioned tensor; its slices go to the shards in turn, the last one first."""
        key = name if isinstance(name, bytes) else name.encode()
        dtype = "string" if values.dtype.kind == "O" else values.dtype.name
        for at, extents in reversed(list(enumerate(slices))):
            part = values[tuple(slice(a, None if n < 0 else a + n) for a, n in extents)]
            stored, crc = self._stored(np.ascontiguousarray(part).reshape(part.shape))
            place = {**self.place(stored, at % len(self.data)), "crc": crc}
            self.rows[slice_key(key, extents)] = entry(dtype, part.shape, **place)
        protos = [slice_proto(extents) for extents in slices]
        self.rows[key] = entry(**{"dtype": dtype, "shape": values.shape, "slices": protos, **more})

    def index(self, per_block: int = 1000, **options: Any) -> bytes:
        """The index file, with so many rows in each block."""
        rows = sorted(self.rows.items())
        return table([rows[at : at + per_block] for at in range(0, len(rows), per_block)], **options)

    def write(self, prefix: Path, index: bytes | None = None, **options: Any) -> Path:
        """Write all files."""
        for shard, data in enumerate(self.data):
            Path(f"{prefix}.data-{shard:05d}-of-{len(self.data):05d}").write_bytes(data)
        Path(f"{prefix}.index").write_bytes(self.index(**options) if index is None else index)
        return prefix


def strings(*values: bytes) -> NDArray[Any]:
    """A vector of strings."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
