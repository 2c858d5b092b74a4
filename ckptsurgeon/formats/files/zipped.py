"""Reads zip files: checks every bound of the directory, and gives members' packed bytes without unpacking them.

Python's `zipfile` gives no access to a member's packed bytes and does not bound its memory, and importing it takes
longer than a listing. Source: PKWARE's APPNOTE. This reader refuses several disks, encryption, duplicate names,
overlapping members, and bytes before the first member that no entry names. Names of members are only keys, since
nothing is extracted: `/a` and `../a` are names as for NumPy. Bytes after the end of the zip file are ignored, as by
`zipfile`; they count as a part of its comment, so that no edit loses them.
"""

from __future__ import annotations

import struct

from ...checkpoint import CHUNK
from ...errors import DamagedError, RefusedError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int, int], bytes]  # (offset, length) -> bytes, fewer at the end of the file

MAGIC = b"PK\x03\x04"
EMPTY = b"PK\x05\x06"  # a zip file without members begins with its end record
STORED, DEFLATED = 0, 8
_ENCRYPTED, DESCRIPTOR, _UTF8 = 1, 8, 1 << 11
ENTRY = struct.Struct("<4s6H3I5H2I")  # entry of a member in the directory
LOCAL = struct.Struct("<4s5H3I2H")  # header before a member's bytes
END = struct.Struct("<4s4H2IH")  # after the directory
END64 = struct.Struct("<4sQ2H2I4Q")  # before END, in large files
LOCATOR = struct.Struct("<4sIQI")  # gives the offset of END64
FULL = 0xFFFFFFFF  # in a 32-bit field: the number is in a 64-bit field
_PER_MEMBER = 1200  # bytes of memory, including the checkpoint's objects for the member
_SPARE = 160 << 20  # bytes of memory allowed beyond the file's size: legitimate files may have 100,000 members
_LONGEST_COMMENT = 0xFFFF
_EPOCH = 33 << 16  # the earliest time that a zip file can hold: the checkpoints we write hold no time stamps


class ZipMember:
    """One file in a zip file.

    Attributes:
        name: as stored.
        text: the decoded name.
        flags, method, time, made, needed, internal, external, comment: as stored.
        extra: as stored, without the field of large sizes.
        crc: CRC-32 of the unpacked bytes.
        packed: number of packed bytes.
        size: number of unpacked bytes.
        data: offset of the first packed byte.
    """

    __slots__ = (
        "comment", "crc", "data", "external", "extra", "flags", "internal", "made", "method", "name", "needed",
        "packed", "size", "text", "time",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.text = name
        self.name = name.encode()
        self.flags = 0 if name.isascii() else _UTF8
        self.method, self.time, self.made, self.needed = STORED, _EPOCH, 3 << 8 | 20, 20
        self.internal, self.external = 0, 0o600 << 16
        self.extra = self.comment = b""
        self.crc = self.packed = self.size = self.data = 0

    def renamed(self, name: str) -> ZipMember:
        """The same member under another name.

        Raises:
            RefusedError: the name is not valid in a zip file.
        """
        problem = name_problem(name)
        if problem:
            raise RefusedError(f"invalid name for a zip member: it {problem}", found=name)
        other = ZipMember(name)
        for each in ("method", "time", "made", "needed", "internal", "external", "extra", "comment", "crc", "packed",
                     "size", "data"):  # fmt: skip
            setattr(other, each, getattr(self, each))
        return other


class ZipDirectory:
    """The directory of a zip file.

    Args:
        read: reads bytes of the file.
        size: of the file.

    Raises:
        DamagedError: it is cut short, or contradicts itself.
        UnsupportedError: the file is encrypted, on several disks, or uses an unsupported compression.

    Attributes:
        members: in the directory's order.
        comment: of the file; all bytes after its end record.
    """

    def __init__(self, read: Read, size: int) -> None:
        self.members: list[ZipMember] = []
        start, length, count, self.comment = _find(read, size)
        if count * ENTRY.size > length or count * _PER_MEMBER > _SPARE + size:
            raise DamagedError("damaged: impossible number of members", found=count)
        data = read(start, length)
        if len(data) != length:
            raise DamagedError("cut short within the directory", expected=f"{length} bytes", found=len(data))
        at = 0
        offsets: list[int] = []
        names: set[str] = set()
        for _ in range(count):
            member, offset, at = _entry(data, at)
            if member.text in names:
                raise DamagedError("damaged: two zip members with the same name", found=member.text[:200])
            names.add(member.text)
            self.members.append(member)
            offsets.append(offset)
        if at != length:
            raise DamagedError("damaged: unused bytes in the zip directory", found=f"{length - at} bytes")
        end = 0
        for number in sorted(range(count), key=offsets.__getitem__):
            if offsets[number] < end:
                raise DamagedError("damaged: zip members overlap", found=self.members[number].text[:200])
            end = _place(read, self.members[number], offsets[number], start)


def _find(read: Read, size: int) -> tuple[int, int, int, bytes]:
    """The directory's offset, length and number of members; the file's comment."""
    tail = read(max(0, size - _LONGEST_COMMENT - END.size), min(size, _LONGEST_COMMENT + END.size))
    at = last = tail.rfind(EMPTY, 0, len(tail) - END.size + len(EMPTY)) if len(tail) >= END.size else -1
    while at >= 0 and END.unpack_from(tail, at)[7] != len(tail) - at - END.size:
        at = tail.rfind(EMPTY, 0, at)
    if at < 0:
        at = last  # bytes were appended to the file, or its comment was cut short
    if at < 0:
        raise DamagedError("cut short, or damaged: a zip file without its directory")
    _, disk, first, here, count, length, start, _ = END.unpack_from(tail, at)
    end = size - len(tail) + at
    comment = tail[at + END.size :]
    locator = read(end - LOCATOR.size, LOCATOR.size) if end >= LOCATOR.size + END64.size else b""
    if locator.startswith(b"PK\x06\x07"):
        end = LOCATOR.unpack(locator)[2]
        record = read(end, END64.size) if end <= size - END64.size - LOCATOR.size else b""
        if not record.startswith(b"PK\x06\x06"):
            raise DamagedError("damaged: a zip file without its zip64 end record")
        _, _, _, _, disk, first, here, count, length, start = END64.unpack(record)
    if disk or first or here != count:
        raise UnsupportedError("a zip file split over several disks")
    if start + length != end:
        raise DamagedError(
            "damaged: a zip file's directory is not where it should be", expected=end - length, found=start
        )
    return start, length, count, comment


def _entry(data: bytes, at: int) -> tuple[ZipMember, int, int]:
    """Parse an entry: the member, the offset of its local header, and the offset of the next entry."""
    if len(data) - at < ENTRY.size:
        raise DamagedError("cut short within the directory")
    (magic, made, needed, flags, method, time, date, crc, packed, size, name_length, extra_length, comment_length, disk,
     internal, external, offset) = ENTRY.unpack_from(data, at)  # fmt: skip
    at += ENTRY.size
    parts = []
    for length in (name_length, extra_length, comment_length):
        parts.append(data[at : at + length])
        at += length
    if magic != b"PK\x01\x02" or at > len(data):
        raise DamagedError("damaged: invalid zip directory entry")
    name, extra, comment = parts
    member = ZipMember("")
    member.name, member.text, member.flags = name, _text(name, flags), flags
    member.made, member.needed, member.method, member.time = made, needed, method, date << 16 | time
    member.internal, member.external, member.comment = internal, external, comment
    member.extra, large = _split_extra(extra)
    numbers = [size, packed, offset]
    for number, value in enumerate(numbers):
        if value == FULL and large is not None:
            if len(large) < 8:
                raise DamagedError("damaged: a zip64 member without its size", found=member.text[:200])
            numbers[number], large = int.from_bytes(large[:8], "little"), large[8:]
    member.size, member.packed, member.crc = numbers[0], numbers[1], crc
    if disk:
        raise UnsupportedError("a zip file split over several disks")
    if flags & _ENCRYPTED:
        raise UnsupportedError("an encrypted zip file", found=member.text[:200])
    if method not in (STORED, DEFLATED):
        what = "unsupported compression"
        raise UnsupportedError(what, expected="stored or deflated", found=f"method {method} of {member.text[:200]}")
    if method == STORED and member.size != member.packed:
        raise DamagedError("damaged: a stored zip member with two different sizes", found=member.text[:200])
    return member, numbers[2], at


def _text(name: bytes, flags: int) -> str:
    try:
        text = name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise DamagedError("damaged: a zip member's name is not valid text", found=name[:200]) from error
    problem = name_problem(text)
    if problem:
        raise DamagedError(f"a zip member whose name {problem}", found=text[:200])
    return text


def name_problem(text: str) -> str | None:
    """Why no member can have a name; None if one can."""
    return "is empty or has a zero byte" if not text or "\0" in text else None


def _split_extra(extra: bytes) -> tuple[bytes, bytes | None]:
    """The extra fields without the field of large sizes, and the content of that field."""
    kept, large, at = b"", None, 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and large is None:
            large = extra[at + 4 : at + 4 + length]
        else:
            kept += extra[at : at + 4 + length]
        at += 4 + length
    return kept + extra[at:], large


def _place(read: Read, member: ZipMember, offset: int, end: int) -> int:
    """Set the offset of a member's packed bytes, and return where they end.

    Raises:
        DamagedError: the bytes do not end before `end`, or the local header contradicts the directory.
    """
    head = read(offset, LOCAL.size) if offset <= end - LOCAL.size else b""
    if len(head) < LOCAL.size or not head.startswith(MAGIC):
        raise DamagedError("damaged: a zip member is not where the directory says", found=member.text[:200])
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack(head)
    name = read(offset + LOCAL.size, name_length)
    alike = (name, method, flags & _ENCRYPTED) == (member.name, member.method, 0)
    if alike and not flags & DESCRIPTOR:
        alike = crc == member.crc and packed in (member.packed, FULL) and size in (member.size, FULL)
    if not alike:
        raise DamagedError("damaged: a zip member contradicts the directory", found=member.text[:200])
    member.data = offset + LOCAL.size + name_length + extra_length
    if member.data + member.packed > end:
        raise DamagedError("damaged: a zip member runs past the directory", found=member.text[:200])
    return member.data + member.packed


def packed(read: Read, member: ZipMember) -> Iterator[bytes]:
    """The packed bytes of a member, at most CHUNK at a time."""
    at, end = member.data, member.data + member.packed
    while at < end:
        chunk = read(at, min(CHUNK, end - at))
        if not chunk:
            raise DamagedError("cut short while it was read", expected=f"at least {end} bytes", found=at)
        at += len(chunk)
        yield chunk


def unpacked(read: Read, member: ZipMember, checked: bool = True) -> Iterator[bytes]:
    """The unpacked bytes of a member, at most CHUNK at a time.

    Raises:
        DamagedError: the size or checksum differs from the directory's; raised before the last chunk.
    """
    import zlib

    crc = done = 0
    held = b""
    for chunk in _inflated(read, member) if member.method == DEFLATED else packed(read, member):
        if held:
            yield held
        crc, done, held = zlib.crc32(chunk, crc), done + len(chunk), chunk
        if done > member.size:
            break
    if checked and done != member.size:
        found = "more" if done > member.size else done
        raise DamagedError("damaged: a zip member's size is wrong", expected=f"{member.size} bytes", found=found)
    if checked and crc != member.crc:
        raise DamagedError("damaged: wrong checksum", expected=f"{member.crc:08x}", found=f"{crc:08x}")
    if held:
        yield held


def _inflated(read: Read, member: ZipMember) -> Iterator[bytes]:
    import zlib

    stream = zlib.decompressobj(-15)
    try:
        for chunk in packed(read, member):
            rest = chunk
            while rest and not stream.eof:
                out = stream.decompress(rest, CHUNK)
                rest = stream.unconsumed_tail
                if out:
                    yield out
        while not stream.eof and (out := stream.decompress(stream.unconsumed_tail, CHUNK)):
            yield out
    except zlib.error as error:
        raise DamagedError("damaged: cannot decompress a zip member") from error
    if not stream.eof:
        raise DamagedError("damaged: a compressed zip member has no end")


def head_of(read: Read, member: ZipMember, length: int) -> bytes:
    """The first `length` bytes of a member, unverified; reads at most `length` bytes of the file."""
    data = read(member.data, min(length, member.packed))
    if member.method == STORED:
        return data
    import zlib

    try:
        return zlib.decompressobj(-15).decompress(data, length)  # packed bytes are hardly more than unpacked bytes
    except zlib.error as error:
        raise DamagedError("damaged: cannot decompress a zip member") from error
