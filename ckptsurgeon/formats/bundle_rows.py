"""Rows of a TensorBundle's index: read, made, or pointed elsewhere with all else carried byte for byte."""

from __future__ import annotations

from ..errors import DamagedError
from .tensor_proto import slice_key
from .wire import BYTES, FIXED32, VARINT, bytes_field, fields, fixed32_field, signed64, varint_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Variable

_HEADER_VERSION = bytes.fromhex("1a020801")  # VersionDef{producer: 1}


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
        shapes = 0
        for number, kind, value, _ in fields(message):
            if kind == VARINT:
                if number == 4:
                    self.offset = signed64(value)
                elif number == 5:
                    self.size = signed64(value)
                elif number == 1:
                    self.dtype = value
                elif number == 3:
                    self.shard = signed64(value)
                else:
                    _check_unknown(number)
            elif kind == BYTES and number == 2:
                self.shape = value
                shapes += 1
            elif kind == FIXED32 and number == 6:
                self.crc = value
            elif kind == BYTES and number == 7:
                self.slices.append(value)
            else:
                _check_unknown(number)
        if shapes > 1:  # protobuf would merge them, which nobody means
            raise DamagedError("damaged: more than one shape", found=shapes)


def _check_unknown(number: int) -> None:
    if number <= 7:
        raise DamagedError(f"damaged: the field {number} is of another wire type than it should be")


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


def row_keys(variable: Variable, key: bytes | None = None) -> list[bytes]:
    """The keys of the index rows that hold a variable's extents, in the order of the extents.

    Args:
        variable: whose partition counts.
        key: its key, if not its own.
    """
    key = key or variable.key
    if variable.slices is None:
        return [key]
    return [slice_key(key, extents) for extents in variable.slices]
