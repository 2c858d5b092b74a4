"""Rows of a TensorBundle's index: made, or pointed elsewhere with all else carried byte for byte."""

from __future__ import annotations

from ..checkpoint import Variable
from .tensor_proto import slice_key
from .wire import bytes_field, fields, fixed32_field, signed64, varint_field

_HEADER_VERSION = bytes.fromhex("1a020801")  # VersionDef{producer: 1}


class Place:
    """Where an extent goes: a shard of the new set, the offset in it, the length and the masked checksum."""

    __slots__ = ("crc", "length", "offset", "shard")

    def __init__(self, shard: int, offset: int, length: int, crc: int) -> None:
        self.shard = shard
        self.offset = offset
        self.length = length
        self.crc = crc


def header_row(shards: int, old: bytes = b"") -> bytes:
    """A BundleHeaderProto: the old one with another number of shards, or a new little-endian one."""
    if not old:
        return varint_field(1, shards) + _HEADER_VERSION
    return varint_field(1, shards) + b"".join(raw for number, _, _, raw in fields(old) if number != 1)


def entry_row(old: bytes, place: Place) -> bytes:
    """A BundleEntryProto that points elsewhere; dtype, shape and unknown fields are carried byte for byte."""
    carried = [(number, raw) for number, _, _, raw in fields(old) if number not in (3, 4, 5, 6)]
    return _in_order([*carried, (3, _place_fields(place))])


def new_entry_row(dtype: int, shape: bytes, place: Place) -> bytes:
    """A BundleEntryProto of a DataType and an encoded TensorShapeProto."""
    return varint_field(1, dtype) + bytes_field(2, shape) + _place_fields(place)


def _place_fields(place: Place) -> bytes:
    return (
        varint_field(3, place.shard)
        + varint_field(4, place.offset)
        + varint_field(5, place.length)
        + fixed32_field(6, place.crc)
    )


def _in_order(parts: list[tuple[int, bytes]]) -> bytes:
    """Encoded fields in the order of their numbers."""
    return b"".join(raw for _, raw in sorted(parts, key=lambda part: part[0]))


def shard_of(key: bytes, row: bytes) -> int | None:
    """The shard that an entry points into; None for the header and the row that describes a partitioned tensor."""
    if not key:
        return None
    shard = 0
    for number, _, value, _ in fields(row):
        if number == 7:
            return None
        if number == 3:
            shard = signed64(value)
    return shard


def moved_row(row: bytes, shard: int) -> bytes:
    """An entry whose shard got another number."""
    carried = [(number, raw) for number, _, _, raw in fields(row) if number != 3]
    return _in_order([*carried, (3, varint_field(3, shard))])


def row_keys(variable: Variable) -> list[bytes]:
    """The keys of the index rows that hold a variable's extents, in the order of the extents."""
    if variable.slices is None:
        return [variable.key]
    return [slice_key(variable.key, extents) for extents in variable.slices]
