"""Decodes, creates and redirects rows of a TensorBundle's index; unknown fields are kept byte for byte."""

from __future__ import annotations

from ...checkpoint import ITEM_SIZE
from ...errors import DamagedError
from ...lean import prod, remembered
from ..tensorflow.tensors import decode_shape, dtype_name, slice_key
from ..tensorflow.wire import (
    BYTES,
    FIXED32,
    VARINT,
    bytes_field,
    fields,
    fixed32_field,
    read_varint,
    signed64,
    varint_field,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Variable

# A tag is a field's number and its wire type.
_DTYPE, _SHARD, _OFFSET, _SIZE = (number << 3 | VARINT for number in (1, 3, 4, 5))
_SHAPE, _CRC = 2 << 3 | BYTES, 6 << 3 | FIXED32
_HEADER_VERSION = bytes.fromhex("1a020801")  # VersionDef{producer: 1}


def split_entry(message: bytes) -> tuple[bytes, int, int, int, int, list[bytes]]:
    """Split a BundleEntryProto, which describes one tensor or slice and its place.

    Returns:
        Its dtype and shape, encoded, as `decode_form` takes them; the shard; offset and size in bytes; the masked
        CRC-32C of the stored bytes; and the encoded slices (if there are any, only dtype, shape and slices matter).

    Raises:
        DamagedError: a field has the wrong wire type, or is repeated.
    """
    plain = _split_plain(message)
    if plain is not None:
        return plain
    dtype = shard = offset = size = crc = shapes = 0
    shape = b""
    slices: list[bytes] = []
    for number, kind, value, _ in fields(message):
        if kind == VARINT and number in (1, 3, 4, 5):
            if number == 1:
                dtype = value
            elif number == 3:
                shard = signed64(value)
            elif number == 4:
                offset = signed64(value)
            else:
                size = signed64(value)
        elif kind == BYTES and number == 2:
            shape = value
            shapes += 1
        elif kind == FIXED32 and number == 6:
            crc = value
        elif kind == BYTES and number == 7:
            slices.append(value)
        elif number <= 7:
            raise DamagedError(f"damaged: the field {number} has the wrong wire type")
    if shapes > 1:  # protobuf would merge them, which is never intended
        raise DamagedError("damaged: more than one shape", found=shapes)
    return varint_field(1, dtype) + bytes_field(2, shape), shard, offset, size, crc, slices


def _split_plain(message: bytes) -> tuple[bytes, int, int, int, int, list[bytes]] | None:
    """As `split_entry`, for an entry with just the fields, in order, that TensorFlow writes for a tensor of one extent.

    Returns None for any other entry. Most of the time for opening a large index is spent here.
    """
    end = len(message) - 5
    if end < 4 or message[0] != _DTYPE or message[1] >= 0x80 or message[2] != _SHAPE or message[3] >= 0x80:
        return None
    at = form = 4 + message[3]
    if at > end or message[end] != _CRC:
        return None
    shard = offset = size = 0
    if message[at] == _SHARD:
        shard, at = read_varint(message, at + 1, end)
    if message[at] == _OFFSET:
        offset, at = read_varint(message, at + 1, end)
    if message[at] == _SIZE:
        size, at = message[at + 1], at + 2
        if size >= 0x80:
            size, at = read_varint(message, at - 1, end)
    if at != end or (shard | offset | size) >> 63:
        return None
    return message[:form], shard, offset, size, int.from_bytes(message[end + 1 :], "little"), []


def _decode_form(form: bytes) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, bytes per element (0: no fixed size), and number of elements of an encoded form.

    Raises:
        DamagedError: the dtype or the shape is unknown or impossible.
    """
    number, encoded = 0, b""
    for field, _, value, _ in fields(form):
        if field == 1:
            number = value
        else:
            encoded = value
    dtype, shape = dtype_name(number), decode_shape(encoded)
    return dtype, shape, ITEM_SIZE.get(dtype, 0), prod(shape)


# Most forms repeat: a slot has its variable's, and a checkpoint the previous checkpoint's.
decode_form = remembered(_decode_form, 1 << 10)


class Place:
    """The place of an extent: a shard of the new set, the offset in it, the length and the masked checksum."""

    __slots__ = ("crc", "length", "offset", "shard")

    def __init__(self, shard: int, offset: int, length: int, crc: int) -> None:
        self.shard = shard
        self.offset = offset
        self.length = length
        self.crc = crc


def header_row(shards: int, old: bytes = b"") -> bytes:
    """Return a BundleHeaderProto: the old one with another number of shards, or a new little-endian one."""
    if not old:
        return varint_field(1, shards) + _HEADER_VERSION
    return varint_field(1, shards) + b"".join(raw for number, _, _, raw in fields(old) if number != 1)


def entry_row(old: bytes, place: Place) -> bytes:
    """Return a BundleEntryProto that points to a new place; dtype, shape and unknown fields are kept byte for byte."""
    carried = [(number, raw) for number, _, _, raw in fields(old) if number not in (3, 4, 5, 6)]
    return _in_order([*carried, (3, _place_fields(place))])


def new_entry_row(dtype: int, shape: bytes, place: Place) -> bytes:
    """Return a BundleEntryProto of a DataType and an encoded TensorShapeProto."""
    return varint_field(1, dtype) + bytes_field(2, shape) + _place_fields(place)


def _place_fields(place: Place) -> bytes:
    return (
        varint_field(3, place.shard)
        + varint_field(4, place.offset)
        + varint_field(5, place.length)
        + fixed32_field(6, place.crc)
    )


def _in_order(parts: list[tuple[int, bytes]]) -> bytes:
    """Return encoded fields in the order of their numbers."""
    return b"".join(raw for _, raw in sorted(parts, key=lambda part: part[0]))


def shard_of(key: bytes, row: bytes) -> int | None:
    """Return the shard of an entry; None for the header and for the row that describes a partitioned tensor."""
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
    """Return an entry with another shard number."""
    carried = [(number, raw) for number, _, _, raw in fields(row) if number != 3]
    return _in_order([*carried, (3, varint_field(3, shard))])


def row_keys(variable: Variable, key: bytes | None = None) -> list[bytes]:
    """Return the keys of the index rows that hold a variable's extents, in the order of the extents.

    Args:
        variable: the variable, whose slices are used.
        key: its key, if different from its own.
    """
    key = key or variable.key
    if variable.slices is None:
        return [key]
    return [slice_key(key, extents) for extents in variable.slices]
