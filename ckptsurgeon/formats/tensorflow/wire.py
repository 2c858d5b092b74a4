"""Primitives of TensorFlow's files: varints, masked CRC-32C, protobuf's wire format, ordered codes.

Independent of tables and tensors. No reader goes beyond the bytes that it is given. Sources: protobuf's encoding
guide; `xla/tsl/lib/hash/crc32c.h` for the mask; `tensorflow/core/lib/strings/ordered_code.cc` for ordered codes.
"""

from __future__ import annotations

from ...errors import DamagedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 (groups) do not occur in these messages
_COUNTED = (VARINT, BYTES)  # wire types whose values begin with a varint

_MASK_DELTA = 0xA282EAD8


class _Checksums:
    """CRC-32C by google_crc32c, from the moment on when there is so much to check that importing it pays."""

    _FEW = 1 << 12  # bytes that Python checks in the time that the import takes

    def __init__(self) -> None:
        self._left = self._FEW
        self._table: list[int] = []
        self._extend: Callable[[int, bytes], int] | None = None

    def extend(self, crc: int, data: bytes) -> int:
        """The CRC of `data` appended to bytes whose CRC is `crc`."""
        if self._extend is None:
            self._left -= len(data)
            if self._left >= 0:
                return self._extend_slowly(crc, data)
            from google_crc32c import extend

            self._extend = extend
        return self._extend(crc, data)

    def _extend_slowly(self, crc: int, data: bytes) -> int:
        table = self._table = self._table or [_remainder(byte) for byte in range(256)]
        crc ^= 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    """What a byte contributes to a CRC-32C."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_checksums = _Checksums()


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, or of `data` appended to bytes whose CRC is `crc`."""
    return _checksums.extend(crc, data)


def mask(crc: int) -> int:
    """The stored form of a CRC, masked so that the CRC of data that contains its own CRC is not degenerate."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The varint at `at`, and the offset of its end.

    Raises:
        DamagedError: the varint runs past `end`, or is longer than 10 bytes or 64 bits.
    """
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        if byte < 0x80:
            value |= byte << shift
            if value >> 64:
                break
            return value, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise DamagedError("damaged: a varint runs past the end of the data")


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """`value` as a varint; negative numbers as their 64-bit two's complement, as protobuf does."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed64(value: int) -> int:
    """Interpret a varint's 64 bits as an int64."""
    return value - (1 << 64) if value >> 63 else value


def fields(message: Any, at: int = 0) -> Iterator[tuple[int, int, Any, Any]]:
    """The fields of a protobuf message, in stored order.

    Args:
        message: bytes, or a memoryview; the values of a memoryview are views too.
        at: offset of the first field.

    Yields:
        For each field its number, wire type, value (int, or bytes if length-delimited) and encoded bytes with the tag,
        so that unknown fields can be copied unchanged.

    Raises:
        DamagedError: not a message: a length or number runs past the end, or a wire type is unknown. The fields
            before the damage are yielded first.
    """
    end = len(message)
    while at < end:
        start = at
        # Almost all numbers take one byte; opening a large checkpoint spends most of its time here.
        tag = message[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(message, start, end)
        kind = tag & 7
        value: Any
        if kind in _COUNTED:
            if at < end and message[at] < 0x80:
                value = message[at]
                at += 1
            else:
                value, at = read_varint(message, at, end)
            if kind == BYTES:
                at += value
                value = message[at - value : at]
        elif kind == FIXED32:
            value = int.from_bytes(message[at : at + 4], "little")
            at += 4
        elif kind == FIXED64:
            value = int.from_bytes(message[at : at + 8], "little")
            at += 8
        else:
            raise DamagedError(f"damaged: a message has a field of wire type {kind}")
        if at > end:
            raise DamagedError("damaged: a message ends within a field")
        if tag < 8:
            raise DamagedError("damaged: a message has a field number 0")
        yield tag >> 3, kind, value, message[start:at]


def varint_field(number: int, value: int) -> bytes:
    """A varint field, or no bytes if the value is 0: proto3 leaves defaults out."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def fixed32_field(number: int, value: int) -> bytes:
    """A fixed32 field, or no bytes if the value is 0."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A length-delimited field; written even if it is empty, since an empty message may be present."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def ordered_string(value: bytes) -> bytes:
    """Encode a string so that encodings sort like the strings, whatever bytes follow them."""
    if b"\x00" not in value and b"\xff" not in value:
        return value + b"\x00\x01"
    parts = value.split(b"\xff")
    return b"\xff\x00".join(part.replace(b"\x00", b"\x00\xff") for part in parts) + b"\x00\x01"


def ordered_unsigned(value: int) -> bytes:
    """Encode a uint64: the number of its significant bytes, then these bytes, the highest first."""
    significant = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes((len(significant),)) + significant


def ordered_signed(value: int) -> bytes:
    """Encode an int64 of up to 7n bits in n bytes: a header of n ones, XORed with the value in two's complement."""
    length = 1
    while not -(1 << (7 * length - 1)) <= value < 1 << (7 * length - 1):
        length += 1
    if length == 1:
        return bytes(((value & 0xFF) ^ 0x80,))
    header = ((0xFFFF << (16 - length)) & 0xFFFF).to_bytes(2, "big")
    encoded = value.to_bytes(length, "big", signed=True)
    return bytes((encoded[0] ^ header[0], encoded[1] ^ header[1])) + encoded[2:]
