"""Strings and variants of a TensorBundle: streams whose checksum is not that of their bytes. Without NumPy.

    strings    varint length of each, masked CRC-32C of the lengths, all bytes; the entry's CRC runs over the lengths
               as integers of 4 bytes (8 from 2^32 on), that masked CRC, and the bytes
    variants   for each: varint length n, n bytes, masked CRC so far; the CRC runs over n as 8 bytes, the n bytes, and
               each masked CRC

Integers are in the bundle's byte order. Source: `ReadStringTensor`, `ReadVariantTensor` in
`tensorflow/core/util/tensor_bundle/tensor_bundle.cc`. Lengths are checked against the room that there is, which
TensorFlow does not do.
"""

from __future__ import annotations

from .. import errors
from ..checkpoint import Extent
from ..errors import DamagedError
from .bundle import Bundle
from .wire import crc32c, mask, read_varint, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal


def string_lengths(bundle: Bundle, extent: Extent, count: int) -> tuple[list[int], int]:
    """The lengths of the `count` strings of an extent, and how many bytes of it the lengths take.

    Raises:
        DamagedError: there is no room for them, or they do not add up to the extent.
    """
    with errors.files(extent.file):
        if count > extent.length - 4:
            raise DamagedError(
                "damaged: no room for the strings", expected=f"{count} strings", found=f"{extent.length} bytes"
            )
        head = Extent(extent.file, extent.offset, min(extent.length, 10 * count), None)
        data = b"".join(bundle.chunks(head))
        lengths, at = [], 0
        for _ in range(count):
            length, at = read_varint(data, at, len(data))
            lengths.append(length)
        total = sum(lengths) + at + 4
        if total != extent.length:
            raise DamagedError("damaged: strings do not add up", expected=f"{extent.length} bytes", found=total)
    return lengths, at


def lengths_crc(lengths: list[int], byteorder: str) -> int:
    """CRC-32C of string lengths."""
    order = _order(byteorder)
    return crc32c(b"".join(n.to_bytes(4 if n <= 0xFFFFFFFF else 8, order) for n in lengths))


def encode_strings(strings: list[bytes], byteorder: str) -> tuple[bytes, int]:
    """The stream of `strings`, and its masked checksum."""
    lengths = [len(string) for string in strings]
    crc = lengths_crc(lengths, byteorder)
    check = mask(crc).to_bytes(4, _order(byteorder))
    payload = b"".join(strings)
    data = b"".join(varint(length) for length in lengths) + check + payload
    return data, mask(crc32c(payload, crc32c(check, crc)))


def stream_crc(bundle: Bundle, extent: Extent, dtype: str, count: int) -> int:
    """The masked checksum of stored strings or variants, as TensorFlow computes it.

    Args:
        bundle: whose byte order counts.
        extent: where the stream lies.
        dtype: "string" or "variant".
        count: number of elements in the extent.

    Raises:
        DamagedError: the stream contradicts itself.
    """
    if dtype == "string":
        if not extent.length and not count:
            return mask(0)
        lengths, at = string_lengths(bundle, extent, count)
        crc = lengths_crc(lengths, bundle.byteorder)
        for chunk in bundle.chunks(Extent(extent.file, extent.offset + at, extent.length - at, None)):
            crc = crc32c(chunk, crc)
        return mask(crc)
    data = b"".join(bundle.chunks(extent))
    crc = at = 0
    with errors.files(extent.file):
        while at < len(data):
            length, at = read_varint(data, at, len(data))
            if at + length + 4 > len(data):
                raise DamagedError("damaged: a variant runs past its end")
            crc = crc32c(length.to_bytes(8, _order(bundle.byteorder)), crc)
            crc = crc32c(data[at : at + length + 4], crc)
            at += length + 4
    return mask(crc)


def _order(byteorder: str) -> Literal["big", "little"]:
    return "big" if byteorder == "big" else "little"
