"""Writes zip files: the members in sequence, then their directory. `zipped` reads them and defines the layout."""

from __future__ import annotations

import struct

from .zipped import DESCRIPTOR, EMPTY, END, END64, ENTRY, FULL, LOCAL, LOCATOR, MAGIC, ZipMember

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .replacing import Output


def local_header(member: ZipMember) -> bytes:
    """The local header, which precedes a member's packed bytes."""
    extra, size, packed_size = member.extra, member.size, member.packed
    if max(size, packed_size) >= FULL:
        extra = struct.pack("<2H2Q", 1, 16, size, packed_size) + extra
        size = packed_size = FULL
    date, time = divmod(member.time, 1 << 16)
    flags = member.flags & ~DESCRIPTOR
    lengths = len(member.name), len(extra)
    needed = _needed(member)
    head = LOCAL.pack(MAGIC, needed, flags, member.method, time, date, member.crc, packed_size, size, *lengths)
    return head + member.name + extra


def store(output: Output, member: ZipMember, size: int, chunks: Iterator[bytes]) -> ZipMember:
    """Write an unpacked member with its header; the checksum, known only at the end, is filled in afterwards.

    Args:
        output: the zip file.
        member: its size and checksum are set.
        size: total size of the chunks, in bytes.
        chunks: the member's content.
    """
    import zlib

    member.size = member.packed = size
    at = output.size
    output.write(local_header(member))
    start, crc = output.size, 0
    for chunk in chunks:
        crc = zlib.crc32(chunk, crc)
        output.write(chunk)
    assert output.size - start == size, member.text
    member.crc = crc
    output.patch(at, local_header(member))
    return member


def entry(member: ZipMember, offset: int) -> bytes:
    """The directory entry of a member whose local header is at `offset`."""
    large, numbers = b"", []
    for number in (member.size, member.packed, offset):
        if number >= FULL:
            large += number.to_bytes(8, "little")
        numbers.append(min(number, FULL))
    extra = (struct.pack("<2H", 1, len(large)) + large if large else b"") + member.extra
    date, time = divmod(member.time, 1 << 16)
    flags = member.flags & ~DESCRIPTOR
    lengths = len(member.name), len(extra), len(member.comment)
    needed = 45 if large else _needed(member)
    head = ENTRY.pack(b"PK\x01\x02", member.made, needed, flags, member.method, time, date, member.crc, numbers[1],
                       numbers[0], *lengths, 0, member.internal, member.external, numbers[2])  # fmt: skip
    return head + member.name + extra + member.comment


def _needed(member: ZipMember) -> int:
    return max(member.needed, 45 if max(member.size, member.packed) >= FULL else 20)


def end(count: int, offset: int, length: int, comment: bytes) -> bytes:
    """The end records of a zip file with a directory of `count` members and `length` bytes at `offset`."""
    large = b""
    if count >= 0xFFFF or offset >= FULL or length >= FULL:
        large = END64.pack(b"PK\x06\x06", END64.size - 12, 45, 45, 0, 0, count, count, length, offset)
        large += LOCATOR.pack(b"PK\x06\x07", 0, offset + length, 1)
    few = min(count, 0xFFFF)
    return large + END.pack(EMPTY, 0, 0, few, few, min(length, FULL), min(offset, FULL), len(comment)) + comment
