"""Strings and variants of a TensorBundle: streams with checksums that are not simply those of their bytes. No NumPy.

    strings    varint length of each, masked CRC-32C of the lengths, all bytes; the entry's CRC runs over the lengths
               as integers of 4 bytes (8 from 2^32 on), that masked CRC, and the bytes
    variants   for each: varint length n, n bytes, masked CRC so far; the CRC runs over n as 8 bytes, the n bytes, and
               each masked CRC

Integers are in the bundle's byte order. Source: `ReadStringTensor`, `ReadVariantTensor` in
`tensorflow/core/util/tensor_bundle/tensor_bundle.cc`. Lengths are checked against the size of the extent, which
TensorFlow does not do.
"""

from __future__ import annotations

from ...checkpoint import Extent
from ...errors import DamagedError, StorageError
from ..tensorflow.wire import crc32c, mask, read_varint, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from .shards import Shards


def load(shards: Shards, extent: Extent) -> bytes:
    """Read the stored bytes of an extent into memory, unchecked.

    Raises:
        StorageError: there is not enough memory.
        DamagedError, ChangedError: as `Shards.chunks`.
    """
    try:
        return b"".join(shards.chunks(extent))
    except MemoryError as error:
        raise StorageError("not enough memory", path=extent.file, expected=f"{extent.length} bytes") from error


def string_lengths(shards: Shards, extent: Extent, count: int) -> tuple[list[int], int]:
    """Return the lengths of the `count` strings of an extent, and how many bytes of it the lengths take.

    Raises:
        DamagedError: the extent is too small, or the lengths do not add up to it.
        ChangedError: the same, because the checkpoint was replaced since it was opened.
    """
    if not extent.length and not count:
        return [], 0  # no checksum either; TensorFlow accepts this, but never writes it
    head = Extent(extent.file, extent.offset, min(extent.length, 10 * count), None)
    data = load(shards, head)
    lengths, at = [], 0
    try:
        for _ in range(count):
            length, at = read_varint(data, at, len(data))
            lengths.append(length)
    except DamagedError as error:
        raise shards.damaged(extent, error.what, f"the lengths of {count} strings", f"{len(lengths)}") from error
    total = sum(lengths) + at + 4
    if total != extent.length:
        raise shards.damaged(extent, "damaged: strings do not add up", f"{extent.length} bytes", total)
    return lengths, at


def lengths_crc(lengths: list[int], byteorder: str) -> int:
    """Return the CRC-32C of string lengths."""
    order = _order(byteorder)
    return crc32c(b"".join(n.to_bytes(4 if n <= 0xFFFFFFFF else 8, order) for n in lengths))


def encode_strings(strings: list[bytes], byteorder: str) -> tuple[bytes, int]:
    """Return the stream of `strings`, and its masked checksum."""
    lengths = [len(string) for string in strings]
    crc = lengths_crc(lengths, byteorder)
    check = mask(crc).to_bytes(4, _order(byteorder))
    payload = b"".join(strings)
    data = b"".join(varint(length) for length in lengths) + check + payload
    return data, mask(crc32c(payload, crc32c(check, crc)))


def read_strings(shards: Shards, extent: Extent, count: int) -> list[bytes]:
    """Return the `count` strings of an extent, with their checksum verified.

    Raises:
        DamagedError, ChangedError: as `check_stream`.
    """
    check_stream(shards, extent, "string", count)
    if not count:
        return []
    data = load(shards, extent)
    lengths, at = string_lengths(shards, extent, count)
    at += 4  # the checksum of the lengths
    strings = []
    for length in lengths:
        strings.append(data[at : at + length])
        at += length
    return strings


def check_stream(shards: Shards, extent: Extent, dtype: str, count: int) -> None:
    """Read all bytes of stored strings or variants and compare their checksum, computed as TensorFlow does.

    Args:
        shards: the bundle's data files.
        extent: where the stream lies.
        dtype: "string" or "variant".
        count: number of elements in the extent.

    Raises:
        DamagedError: the stream contradicts itself or its checksum.
        ChangedError: the same, because the checkpoint was replaced since it was opened.
    """
    compute = _strings_crc if dtype == "string" else _variants_crc
    shards.compare(compute(shards, extent, count), extent)


def checked_stream(shards: Shards, extent: Extent, dtype: str, count: int) -> Iterator[bytes]:
    """Yield the chunks of stored strings or variants, after all of them have been read and checked."""
    check_stream(shards, extent, dtype, count)
    return shards.chunks(extent)


def _strings_crc(shards: Shards, extent: Extent, count: int) -> int:
    lengths, at = string_lengths(shards, extent, count)
    if not extent.length:
        return mask(0)
    crc = lengths_crc(lengths, shards.byteorder)
    check = load(shards, Extent(extent.file, extent.offset + at, 4, None))
    _compare(shards, extent, check, crc)
    crc = crc32c(check, crc)
    for chunk in shards.chunks(Extent(extent.file, extent.offset + at + 4, extent.length - at - 4, None)):
        crc = crc32c(chunk, crc)
    return mask(crc)


def _variants_crc(shards: Shards, extent: Extent, count: int) -> int:
    data = load(shards, extent)
    crc = at = found = 0
    while at < len(data):
        try:
            length, at = read_varint(data, at, len(data))
        except DamagedError as error:
            raise shards.damaged(extent, error.what, "the length of a variant", f"byte {at}") from error
        end = at + length + 4  # past the end the checksum cannot match
        crc = crc32c(length.to_bytes(8, _order(shards.byteorder)), crc)
        crc = crc32c(data[at : end - 4], crc)
        _compare(shards, extent, data[end - 4 : end], crc)
        crc = crc32c(data[end - 4 : end], crc)
        found += 1
        at = end
    if found != count:
        raise shards.damaged(extent, "damaged: wrong number of variants", count, found)
    return mask(crc)


def _compare(shards: Shards, extent: Extent, check: bytes, crc: int) -> None:
    """Compare a checksum within a stream with the computed one."""
    expected = mask(crc).to_bytes(4, _order(shards.byteorder))
    if check != expected:
        raise shards.damaged(extent, "damaged: wrong checksum of lengths", check.hex(), expected.hex())


def _order(byteorder: str) -> Literal["big", "little"]:
    return "big" if byteorder == "big" else "little"
